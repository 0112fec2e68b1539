"""`slipstream rollout create, list, show, approve, ...`: clients of the operators' door."""

from dataclasses import replace
from typing import Any

import click
import msgspec

from slipstream.cli.operator_client import Client, echo_json, operator_options
from slipstream.cli.rollout_plan import Target, plan_from_options, plan_options
from slipstream.cli.rollout_words import in_words, list_in_words
from slipstream.delta.errors import SlipstreamError, UsageError
from slipstream.server.rollout.plan import Urgency
from slipstream.server.rollout.record import Status

_DIGITS_MAX = 15  # of a rollout's number in a path
_ACTS = (
    ("approve", "Let a rollout that waits for approval begin. Not for its author."),
    ("deny", "Refuse a rollout that waits for approval. Not for its author."),
    ("start", "Open the first phase now, without waiting for the rollout's time."),
    ("pause", "Make no new offers until it is resumed."),
    ("resume", "Go on; failures until now no longer count for pause and abort rules."),
    (
        "abort",
        (
            "End it for good: nothing is offered any more. An offer that stands keeps its place in the "
            "budgets until its device is heard of, or is recalled: device-admin recall."
        ),
    ),
    ("next", "Open the next phase now, whether or not the one before is proved."),
)


@click.command()
@plan_options
@click.option("--needs-approval", is_flag=True, help="Somebody else has to approve it first.")
@click.option("--forced", is_flag=True, help="Devices act at once, whatever their own windows.")
@click.option(
    "--beside", is_flag=True, help="Though another rollout offers the same release already."
)
@click.option("--download-only", is_flag=True, help="Devices fetch, and do not install.")
@operator_options
def create(
    client: Client,
    as_json: bool,
    needs_approval: bool,
    forced: bool,
    download_only: bool,
    beside: bool,
    **options: Any,
) -> None:
    """Roll out a release of the server's repository, in phases.

    Product and counter are those of the release. It begins at once, unless it has a --start or
    needs approval: by --needs-approval, or because the server wants that of every rollout.

    \b
        slipstream rollout create --release 2.0 --phase 1% --phase 10% --phase 100% --soak 2h
    """
    target = _target(client, options)
    plan = plan_from_options(target, options)
    if options["plan_file"] is None and options["name"] is None:
        plan = replace(plan, name=f"{target.product} {target.release}")
    changes: dict[str, Any] = {}
    if needs_approval:
        changes["needs_approval"] = True
    if forced:
        changes["urgency"] = Urgency.FORCED
    if download_only:
        changes["download_only"] = True
    if beside:
        changes["beside"] = True
    made = client.change("POST", "/rollouts", msgspec.to_builtins(replace(plan, **changes)))
    _tell(made, as_json=as_json)
    for note in made["notes"]:
        click.echo(f"note: {note}", err=True)


@click.command("list")
@click.option("--status", type=click.Choice([one.value for one in Status]), help="Only these.")
@operator_options
def list_rollouts(client: Client, as_json: bool, status: str | None) -> None:
    """List rollouts, newest first."""
    found = list(client.pages("/rollouts", status=status))
    if as_json:
        echo_json(found)
        return
    for line in list_in_words(found):
        click.echo(line)


@click.command()
@click.argument("rollout", metavar="ROLLOUT")
@click.option("--devices", is_flag=True, help="Also each device that was offered the release.")
@operator_options
def show(client: Client, as_json: bool, rollout: str, devices: bool) -> None:
    """Show ROLLOUT (its number or name): phases, what failed, and how many more may fail."""
    number = _number(client, rollout)
    found = client.get(f"/rollouts/{number}")
    told = list(client.pages(f"/rollouts/{number}/devices")) if devices else None
    if as_json:
        echo_json(found if told is None else {**found, "devices": told})
        return
    _tell(found, as_json=False)
    if told is not None:
        click.echo("")
        for one in told:
            words = one["state"].replace("_", " ") + (f": {one['reason']}" if one["reason"] else "")
            click.echo(f"{one['device']:<30} phase {one['phase'] + 1:<3} {words}")


def acts() -> list[click.Command]:
    """The commands that move a rollout; each says what it looked at, so that nobody is run over."""
    return [_act(name, text) for name, text in _ACTS]


def _act(name: str, text: str) -> click.Command:
    @operator_options
    def command(client: Client, as_json: bool, rollout: str, remark: str) -> None:
        path = f"/rollouts/{_number(client, rollout)}"
        version = client.look(path).version
        _tell(
            client.change("POST", f"{path}/{name}", {"remark": remark}, version=version),
            as_json=as_json,
        )

    command.__doc__ = text
    remarked = click.option("--remark", default="", help="Why; kept with the rollout.")(command)
    return click.command(name)(click.argument("rollout", metavar="ROLLOUT")(remarked))


def _tell(rollout: Any, *, as_json: bool) -> None:
    if as_json:
        echo_json(rollout)
        return
    for line in in_words(rollout):
        click.echo(line)


def _number(client: Client, text: str) -> int:
    """A rollout's number, of its number or its name."""
    if text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX:
        return int(text)
    for one in client.pages("/rollouts"):
        if one["name"] == text:
            return int(one["id"])
    raise SlipstreamError(f"no rollout {text!r}", where=client.server)


def _target(client: Client, options: dict[str, Any]) -> Target:
    """The release that the options name, as the server's repository has it."""
    if options["plan_file"] is not None:
        return Target("", "", 0)  # the plan says it
    name, product = options["release"], options["product"]
    if name is None:
        raise UsageError("which release?", expected="--release VERSION, or --plan FILE")
    there = [one for one in client.get("/releases")["items"] if one["release"] == name]
    found = [one for one in there if product in (None, one["product"])]
    if len(found) != 1:
        of = sorted(one["product"] for one in there)
        what = f"no release {name} in the repository"
        if product is not None and there:
            what = f"no release {name} of the product {product} in the repository"
        elif len(there) > 1:
            what = f"more than one product has a release {name}"
        raise UsageError(
            what,
            where=client.server,
            expected=f"--product {' or '.join(of)}" if there else None,
            hint=None if there else "slipstream repo publish makes one",
        )
    if options["channel"] is None:
        options["channel"] = found[0]["channel"]
    return Target(found[0]["product"], name, found[0]["counter"])
