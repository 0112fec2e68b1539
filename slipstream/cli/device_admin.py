"""`slipstream device-admin`: the devices of a fleet, as clients of the operators' door."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from slipstream.cli.durations import DURATION
from slipstream.cli.operator_client import (
    Client,
    echo_json,
    echo_secret,
    operator_options,
    place,
)
from slipstream.delta.durable import reserved_file
from slipstream.delta.errors import SlipstreamError, UsageError

FILE = click.Path(path_type=Path, dir_okay=False)
_ROW_BYTES_MAX = 64  # a token has 43 characters; separators


@click.group("device-admin")
def device_admin() -> None:
    """Register, describe, find and remove a fleet's devices."""


@device_admin.command("list")
@click.option("--filter", "filter_", default="", metavar="RSQL", help="'tag==canary'.")
@operator_options
def list_devices(client: Client, as_json: bool, filter_: str) -> None:
    """List devices: what they run, and when they were last heard of."""
    found = list(client.pages("/devices", filter=filter_, limit=500))
    if as_json:
        echo_json(found)
        return
    click.echo(f"{'device':<32}{'runs':<16}{'channel':<12}{'group':<12}seen")
    for one in found:
        runs = (one["release"] or "unknown") + (", on trial" if one["trial"] else "")
        click.echo(
            f"{one['id']:<32}{runs:<16}{one['channel']:<12}{one['group'] or '-':<12}{_when(one['seen_at'])}"
        )


@device_admin.command()
@click.argument("device", metavar="DEVICE")
@operator_options
def show(client: Client, as_json: bool, device: str) -> None:
    """Show all that is known of DEVICE, its offers and its timeline."""
    found = client.get(f"/devices/{place(device)}")
    if as_json:
        echo_json(found)
        return
    for line in _in_words(found):
        click.echo(line)


@device_admin.command()
@click.argument("device", metavar="DEVICE")
@click.option("--product", required=True, help="What kind of device it is.")
@click.option("--channel", default="stable", show_default=True, help="The releases it follows.")
@click.option("--group", default="", help="Where it belongs.")
@click.option("--tag", "tags", multiple=True, help="Repeatable.")
@click.option("--attribute", "attributes", multiple=True, metavar="KEY=VALUE", help="Repeatable.")
@operator_options
def add(client: Client, as_json: bool, device: str, **said: Any) -> None:
    """Register DEVICE and print its token, which is shown this once."""
    body = {**said, "id": device, "attributes": _attributes(said["attributes"])}
    _tell_token(
        client.change("POST", "/devices", body), "is registered, with a token", as_json=as_json
    )


@device_admin.command("import")
@click.argument(
    "file", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False, exists=True)
)
@click.option(
    "-o",
    "--output",
    type=FILE,
    required=True,
    help="Gets the tokens, as CSV; mode 0600. It must be new.",
)
@operator_options
def import_devices(client: Client, as_json: bool, file: Path, output: Path) -> None:
    """Register the devices of a CSV FILE: all of them, or none.

    Columns: id and product; channel, group, tags (separated by spaces), attribute.KEY.
    """
    text = _read_roster(file)
    # A token a line, beside an id that stands in the file as well.
    room = len(text.encode()) + _ROW_BYTES_MAX * (text.count("\n") + 2)
    try:
        with reserved_file(output, room, mode=0o600) as write:
            made = client.change("POST", "/device-imports", text=text)["devices"]
            if any(one["token"] is None for one in made):
                raise SlipstreamError("the answer was lost on the way", hint=_lost(made))
            try:
                write(_tokens_csv(made))
            except OSError as error:
                raise SlipstreamError(
                    f"cannot write the tokens: {error.strerror}", where=output, hint=_lost(made)
                ) from error
    except FileExistsError as error:
        raise UsageError(
            "is there already, and may hold tokens that nobody can see again",
            where=output,
            expected="a new file",
        ) from error
    except OSError as error:
        raise UsageError(f"cannot make the file: {error.strerror}", where=output) from error
    if as_json:
        echo_json({"devices": len(made), "tokens": str(output)})
    else:
        click.echo(f"{len(made)} devices registered; their tokens stand in {output}")


@device_admin.command()
@click.argument("device", metavar="DEVICE")
@click.option("--channel", help="The releases it follows.")
@click.option("--group", help='Where it belongs; "" takes it away.')
@click.option("--tag", "tags", multiple=True, help="All of its tags. Repeatable.")
@click.option("--no-tags", is_flag=True, help="Take all tags away.")
@click.option(
    "--attribute",
    "attributes",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set it; an empty value takes it away. The others stay. Repeatable.",
)
@operator_options
def describe(
    client: Client,
    as_json: bool,
    device: str,
    channel: str | None,
    group: str | None,
    tags: tuple[str, ...],
    no_tags: bool,
    attributes: tuple[str, ...],
) -> None:
    """Say of DEVICE: its channel, group, tags, attributes."""
    path = f"/devices/{place(device)}"
    body: dict[str, Any] = {"channel": channel, "group": group}
    if tags or no_tags:
        body["tags"] = tags
    if attributes:
        there = client.get(path, limit=1)["device"]["attributes"]
        merged = {**there, **_attributes(attributes)}
        body["attributes"] = {key: value for key, value in merged.items() if value}
    found = client.change("PATCH", path, body)
    if as_json:
        echo_json(found)
    else:
        for line in _described(found):
            click.echo(line)


@device_admin.command()
@click.argument("device", metavar="DEVICE")
@click.option(
    "--overlap",
    type=DURATION,
    default="1d",
    show_default=True,
    help="The token before is taken for so long.",
)
@operator_options
def rotate(client: Client, as_json: bool, device: str, overlap: int) -> None:
    """Give DEVICE another token and print it."""
    path = f"/devices/{place(device)}/token"
    made = client.change("POST", path, {"overlap_s": overlap})
    _tell_token(made, "has a new token", as_json=as_json)


def _simple(name: str, path: str, done: str, text: str) -> None:
    """A command that changes one thing of a device and has nothing to tell."""

    @operator_options
    def command(client: Client, as_json: bool, device: str) -> None:
        client.change("DELETE", path.format(place(device)))
        if as_json:
            echo_json({"id": device})
        else:
            click.echo(f"{device}: {done}")

    command.__doc__ = text
    device_admin.command(name)(click.argument("device", metavar="DEVICE")(command))


_simple(
    "revoke",
    "/devices/{}/token",
    "its token is revoked",
    "Take DEVICE's token away: it is unknown until it is given another by rotate.",
)
_simple(
    "unlock",
    "/devices/{}/holds",
    "its reboot lock is given back",
    "Give back the places in budgets that DEVICE holds, when it will not do so itself.",
)
_simple(
    "remove",
    "/devices/{}",
    "removed",
    "Remove DEVICE with its token, its reports and its offers.",
)


@device_admin.command()
@operator_options
def quarantines(client: Client, as_json: bool) -> None:
    """List the releases that devices are not offered again, and why."""
    found = list(client.pages("/quarantines"))
    if as_json:
        echo_json(found)
        return
    for one in found or ():
        click.echo(
            f"{one['device']:<32}{one['release']:<14}{_when(one['since']):<18}{one['reason']}"
        )
    if not found:
        click.echo("no release is quarantined")


@device_admin.command()
@click.argument("device", metavar="DEVICE")
@click.argument("release", metavar="RELEASE")
@operator_options
def lift(client: Client, as_json: bool, device: str, release: str) -> None:
    """Offer RELEASE to DEVICE again, though it fell back from it."""
    client.change("DELETE", f"/devices/{place(device)}/quarantines/{place(release)}")
    if as_json:
        echo_json({"id": device, "release": release})
    else:
        click.echo(f"{device}: {release} may be offered again")


@device_admin.command()
@click.argument("device", metavar="DEVICE")
@click.argument("release", metavar="RELEASE")
@operator_options
def recall(client: Client, as_json: bool, device: str, release: str) -> None:
    """Take the offer of RELEASE back from DEVICE alone. What is installed stays installed."""
    client.change("DELETE", f"/devices/{place(device)}/offers/{place(release)}")
    if as_json:
        echo_json({"id": device, "release": release})
    else:
        click.echo(f"{device}: the offer of {release} is taken back")


def _read_roster(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read the devices: {error.strerror}", where=file) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UsageError(
            "not text in UTF-8",
            where=f"{file}, line {line}",
            got=f"the byte 0x{error.object[error.start]:02x}",
            hint="Save it as 'CSV UTF-8', or convert it: iconv -f WINDOWS-1252 -t UTF-8",
        ) from error


def _tokens_csv(made: Sequence[Mapping[str, Any]]) -> bytes:
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(("id", "token"))
    rows.writerows((one["id"], one["token"]) for one in made)
    return table.getvalue().encode()


def _lost(made: Sequence[Mapping[str, Any]]) -> str:
    return (
        f"{len(made)} devices are registered, with tokens that nobody can see again; give each another: "
        "slipstream device-admin rotate DEVICE --overlap 0s"
    )


def _in_words(found: Mapping[str, Any]) -> Iterator[str]:
    yield from _described(found["device"])
    for one in found["device"]["slots"]:
        yield f"slot {one['name']:<10} {one.get('release') or 'empty':<14}{one.get('state', '')}"
    for one in found["quarantines"]:
        yield f"not offered {one['release']} since {_when(one['since'])}: {one['reason']}"
    for one in found["holds"]:
        whose = "FleetLock" if one["rollout"] is None else f"rollout {one['rollout']}"
        yield f"holds a place of {one['label']} {one['value']} for {whose} since {_when(one['since'])}"
    for one in found["attempts"]:
        reason = f": {one['reason']}" if one["reason"] else ""
        yield (
            f"{_when(one['changed_at'])}  rollout {one['rollout']}, {one['release']}: "
            f"{one['state'].replace('_', ' ')}{reason}"
        )
    if found["events"]:
        yield ""
        yield from (f"{_when(one['at'])}  {one['text']}" for one in found["events"])


def _described(device: Mapping[str, Any]) -> Iterator[str]:
    yield f"{device['id']}: {device['product']}, channel {device['channel']}" + (
        f", group {device['group']}" if device["group"] else ""
    )
    trial = ", on trial" if device["trial"] else ""
    yield f"runs {device['release'] or 'unknown'}{trial}, seen {_when(device['seen_at'])}"
    if device["tags"]:
        yield f"tags {' '.join(device['tags'])}"
    yield from (f"{key} = {value}" for key, value in device["attributes"].items())


def _attributes(texts: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(
                "not an attribute", where="--attribute", expected="KEY=VALUE", got=repr(text)
            )
        found[key] = value
    return found


def _tell_token(made: Mapping[str, Any], done: str, *, as_json: bool) -> None:
    name = made["id"]
    lost = (
        f"Device {name} {done} that nobody can see again; give it another: "
        f"slipstream device-admin rotate {name} --overlap 0s"
    )
    echo_secret(made["token"], made, as_json=as_json, lost=lost)


def _when(seconds: int | None) -> str:
    if seconds is None:
        return "never"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%MZ")
