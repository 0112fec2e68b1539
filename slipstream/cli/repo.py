"""`slipstream repo`: a repository of signed releases, for the build machine."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import click

from slipstream.cli.passphrase import FILE, Passphrase, passphrase_option
from slipstream.cli.progress import Steps, megabytes
from slipstream.cli.sizes import SIZE, UNITS_HELP
from slipstream.cli.uki import secure_boot_keys, uki
from slipstream.delta.errors import Interrupted, NothingToDo, UsageError
from slipstream.delta.manifest import Place

FOLDER = click.Path(path_type=Path, file_okay=False)
ROLES = ("root", "targets", "snapshot", "timestamp", "deltas")

keys_option = click.option(
    "--keys",
    type=FOLDER,
    multiple=True,
    help="Another folder with key files, for offline keys that are only brought to sign. Repeatable.",
)


@click.group()
def repo() -> None:
    """Make a repository, publish releases, rotate keys."""


repo.add_command(uki)
repo.add_command(secure_boot_keys)


@repo.command()
@click.argument("path", metavar="REPO", type=FOLDER)
@click.option("--product", required=True, help="What kind of device the releases are for.")
@click.option(
    "--threshold",
    "thresholds",
    metavar="ROLE=N",
    multiple=True,
    help="Signatures a role needs. Repeatable.",
)
@click.option(
    "--key-count",
    "counts",
    metavar="ROLE=N",
    multiple=True,
    help="Keys to make for a role. Repeatable.",
)
@click.option(
    "--expiry-days",
    "days",
    metavar="ROLE=N",
    multiple=True,
    help="How long a role's signatures last.",
)
@click.option("--salt", help="Salt of the product's hash trees, 64 hex digits; random by default.")
@click.option(
    "--insecure-no-passphrase",
    is_flag=True,
    help="Do not encrypt the private keys. Development only.",
)
@passphrase_option
def init(
    path: Path,
    product: str,
    thresholds: tuple[str, ...],
    counts: tuple[str, ...],
    days: tuple[str, ...],
    salt: str | None,
    insecure_no_passphrase: bool,
    passphrase_file: Path | None,
) -> None:
    """Make a repository in REPO: keys and first metadata."""
    from slipstream.server.keys import no_passphrase  # noqa: PLC0415
    from slipstream.server.policy import make_roles  # noqa: PLC0415
    from slipstream.server.repo import init_repo  # noqa: PLC0415

    roles = make_roles(
        keys=_by_role("--key-count", counts),
        thresholds=_by_role("--threshold", thresholds),
        days=_by_role("--expiry-days", days),
    )
    made = init_repo(
        path,
        product,
        passphrases=no_passphrase
        if insecure_no_passphrase
        else Passphrase(passphrase_file, confirm=True),
        now=datetime.now(UTC),
        roles=roles,
        salt=_salt(salt),
    )
    click.echo(f"{made.path}: repository for {product}")
    for name, role in roles.items():
        click.echo(
            f"  {name}: {role.threshold} of {role.keys} keys, signatures last {role.days} days"
        )
    click.echo(
        f"Devices trust {made.metadata / '1.root.json'} first; keep {made.keys} offline and secret."
    )


@repo.command()
@click.argument("path", metavar="REPO", type=FOLDER)
@click.option(
    "--version", required=True, help="The release's version; it never changes once published."
)
@click.option(
    "--image",
    "images",
    metavar="NAME=FILE",
    multiple=True,
    help="An image. uki, linux and initrd are boot files; any other name is that partition of the slot. Repeatable.",
)
@click.option(
    "--artifact",
    "artifacts",
    metavar="NAME=FILE",
    multiple=True,
    help="A file for another updater, .swu or .raucb or any; hawkBit's clients see NAME as the type of a module. Repeatable.",
)
@click.option(
    "--delta-from", metavar="V", multiple=True, help="Make a delta from this release. Repeatable."
)
@click.option(
    "--change-images",
    is_flag=True,
    help="The images are named otherwise than the last release's, and that is meant.",
)
@click.option("--channel", default="stable", show_default=True, help="The line of releases.")
@click.option(
    "--hardware",
    multiple=True,
    help="Hardware that the release is for; any by default. Repeatable.",
)
@click.option("--counter", type=int, help="Release counter; one above the highest by default.")
@click.option(
    "--floor", type=int, help="Lowest counter a device accepts once this release is confirmed."
)
@click.option("--notes", default="", help="A text for people.")
@click.option("--title", help="What the boot menu shows.")
@click.option(
    "--options",
    "boot_options",
    default="",
    help="Kernel command line; {NAME.root} is an image's root hash.",
)
@click.option(
    "--profile",
    type=click.Choice(["small", "balanced", "fast"]),
    default="balanced",
    show_default=True,
)
@click.option(
    "--memory",
    type=SIZE,
    default="96MiB",
    show_default=True,
    help=f"What a device's installer may use. {UNITS_HELP}",
)
@click.option(
    "--uki-cert",
    "uki_certs",
    type=FILE,
    multiple=True,
    help="Refuse a UKI that is not signed for Secure Boot by this certificate, or by one of REPO/uki-certs.pem. Repeatable: by one of them.",
)
@click.option("--jobs", type=click.IntRange(1, 256), help="Processes; all cores by default.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@keys_option
@passphrase_option
def publish(
    path: Path,
    version: str,
    images: tuple[str, ...],
    artifacts: tuple[str, ...],
    delta_from: tuple[str, ...],
    change_images: bool,
    channel: str,
    hardware: tuple[str, ...],
    counter: int | None,
    floor: int | None,
    notes: str,
    title: str | None,
    boot_options: str,
    profile: str,
    memory: int,
    uki_certs: tuple[Path, ...],
    jobs: int | None,
    as_json: bool,
    keys: tuple[Path, ...],
    passphrase_file: Path | None,
) -> None:
    """Add a release to REPO: manifest, full payloads, deltas; blobs first, timestamp last.

    Killed at any point and called again it completes. Called twice it changes nothing.
    """
    from slipstream.server.publish import publish as publish_release  # noqa: PLC0415
    from slipstream.server.repo import open_repo  # noqa: PLC0415
    from slipstream.server.request import ReleaseRequest  # noqa: PLC0415

    request = ReleaseRequest(
        version=version,
        images=dict(_image(word) for word in images),
        artifacts=dict(_artifact(word) for word in artifacts),
        delta_from=delta_from,
        channel=channel,
        hardware=hardware,
        counter=counter,
        floor=floor,
        notes=notes,
        title=title,
        options=boot_options,
        profile=profile,
        memory_bytes=memory,
        jobs=jobs,
        uki_certs=uki_certs,
        change_images=change_images,
    )
    try:
        with Steps(quiet=as_json) as steps:
            published = publish_release(
                open_repo(path),
                request,
                passphrases=Passphrase(passphrase_file),
                now=datetime.now(UTC),
                keys=keys,
                on_progress=steps.report,
            )
    except KeyboardInterrupt as error:
        raise Interrupted(
            "interrupted; what is published is whole",
            hint="Run the same command again: it keeps the payloads that are finished",
        ) from error
    manifest = published.manifest
    if as_json:
        click.echo(
            json.dumps(
                {
                    "release": manifest.release,
                    "counter": manifest.counter,
                    "floor": manifest.floor,
                    "already": published.already,
                    "notes": list(published.notes),
                    "images": {
                        image.name: {
                            "image_bytes": image.tree.image_size,
                            "root": image.tree.root.hex,
                            "full_payload_bytes": image.full.payload_size,
                        }
                        for image in manifest.images
                    },
                    "artifacts": {
                        one.artifact: {
                            "file_name": one.file_name,
                            "artifact_bytes": one.artifact_bytes,
                            "sha256": one.sha256.hex,
                        }
                        for one in published.artifacts
                    },
                    "deltas": [
                        {
                            "image": made.image,
                            "from": made.source,
                            "payload_bytes": made.index.payload_size if made.index else None,
                            "published": made.published,
                            "why": made.why,
                        }
                        for made in published.deltas
                    ],
                }
            )
        )
        return
    for note in published.notes:
        click.echo(f"note: {note}", err=True)
    word = "was already published" if published.already else "published"
    click.echo(f"release {manifest.release} (counter {manifest.counter}) {word}")
    for image in manifest.images:
        click.echo(
            f"  {image.name}: {megabytes(image.tree.image_size)}, full payload {megabytes(image.full.payload_size)}"
        )
    for one in published.artifacts:
        click.echo(f"  {one.artifact}: {one.file_name}, {megabytes(one.artifact_bytes)}")
    for made in published.deltas:
        size = megabytes(made.index.payload_size) if made.index else f"none: {made.why}"
        click.echo(f"  {made.image}: delta from {made.source}, {size}")


@repo.command("add-delta")
@click.argument("path", metavar="REPO", type=FOLDER)
@click.option("--from", "source", metavar="V", required=True, help="The release devices run.")
@click.option("--to", "target", metavar="V", required=True, help="The release they shall run.")
@click.option(
    "--profile",
    type=click.Choice(["small", "balanced", "fast"]),
    default="balanced",
    show_default=True,
)
@click.option(
    "--memory",
    type=SIZE,
    default="96MiB",
    show_default=True,
    help=f"What a device's installer may use. {UNITS_HELP}",
)
@click.option("--jobs", type=click.IntRange(1, 256), help="Processes; all cores by default.")
@click.option(
    "--work",
    type=FOLDER,
    help="Folder to build in, on the repository's file system; REPO/server/deltas/FROM/TO by default.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
@keys_option
@passphrase_option
def add_delta(
    path: Path,
    source: str,
    target: str,
    profile: str,
    memory: int,
    jobs: int | None,
    work: Path | None,
    as_json: bool,
    keys: tuple[Path, ...],
    passphrase_file: Path | None,
) -> None:
    """Make a delta between two releases of REPO that are published.

    Needs the online keys only. Releases can be published meanwhile. Killed and called again it goes on.
    """
    from slipstream.server.late_deltas import LateDelta  # noqa: PLC0415
    from slipstream.server.late_deltas import add_delta as add  # noqa: PLC0415
    from slipstream.server.repo import open_repo  # noqa: PLC0415

    repository = open_repo(path)
    folder = work or repository.path / "server" / "deltas" / source / target
    wanted = LateDelta(source, target, folder, profile=profile, memory_bytes=memory, jobs=jobs)
    with Steps(quiet=as_json) as steps:
        made = add(
            repository,
            wanted,
            passphrases=Passphrase(passphrase_file),
            now=datetime.now(UTC),
            keys=keys,
            on_progress=steps.report,
        )
    if as_json:
        click.echo(
            json.dumps(
                {
                    "from": source,
                    "to": target,
                    "deltas": [
                        {
                            "image": one.image,
                            "payload_bytes": one.index.payload_size if one.index else None,
                            "published": one.published,
                            "why": one.why,
                        }
                        for one in made
                    ],
                }
            )
        )
        return
    if not made:
        raise NothingToDo(f"every image of {target} that differs has its delta from {source}")
    for one in made:
        size = megabytes(one.index.payload_size) if one.index else f"none: {one.why}"
        click.echo(f"{one.image}: delta from {source} to {target}, {size}")


@repo.command("root-hash")
@click.argument("path", metavar="REPO", type=FOLDER)
@click.argument("image", metavar="FILE", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="The whole tuple of the hash tree.")
def root_hash(path: Path, image: Path, as_json: bool) -> None:
    """Print the root hash that FILE will have in REPO: what roothash= in its UKI must say."""
    from slipstream.server.releases import scan_image  # noqa: PLC0415
    from slipstream.server.repo import open_repo  # noqa: PLC0415

    salt = open_repo(path).policy.salt
    with Steps(quiet=as_json) as steps:
        scanned = scan_image(image, salt, lambda done, total: steps.report("hash", done, total))
    tree = scanned.tree.tuple
    if not as_json:
        click.echo(tree.root.hex)
        return
    click.echo(
        json.dumps(
            {
                "hash_type": tree.hash_type,
                "algorithm": tree.algorithm,
                "data_block_size": tree.data_block_size,
                "hash_block_size": tree.hash_block_size,
                "data_blocks": tree.data_blocks,
                "salt": tree.salt.hex(),
                "image_size": tree.image_size,
                "root": tree.root.hex,
            }
        )
    )


@repo.command()
@click.argument("path", metavar="REPO", type=FOLDER)
@click.option(
    "--offline", is_flag=True, help="Sign root and targets anew as well; needs their keys."
)
@keys_option
@passphrase_option
def refresh(
    path: Path, offline: bool, keys: tuple[Path, ...], passphrase_file: Path | None
) -> None:
    """Sign anew what expires: timestamp, and snapshot and deltas when they are due. Run it daily."""
    from slipstream.server.repo import open_repo  # noqa: PLC0415
    from slipstream.server.sign import refresh as refresh_signatures  # noqa: PLC0415

    done = refresh_signatures(
        open_repo(path),
        passphrases=Passphrase(passphrase_file),
        now=datetime.now(UTC),
        offline=offline,
        keys=keys,
    )
    click.echo(f"signed anew: {', '.join(done.signed) or 'nothing was due'}")
    for expiry in done.due:
        click.echo(
            f"{expiry.role} expires {expiry.expires:%Y-%m-%d} and needs its offline keys: repo refresh --offline",
            err=True,
        )


@repo.command("rotate-key")
@click.argument("path", metavar="REPO", type=FOLDER)
@click.argument("role", type=click.Choice(ROLES))
@click.option("--old", metavar="KEYID", help="The key to replace; the role's first by default.")
@keys_option
@passphrase_option
def rotate_key(
    path: Path, role: str, old: str | None, keys: tuple[Path, ...], passphrase_file: Path | None
) -> None:
    """Replace a key of ROLE by a new one; devices follow through the chain of roots."""
    from slipstream.server.repo import open_repo  # noqa: PLC0415
    from slipstream.server.rotate import rotate_key as rotate  # noqa: PLC0415

    done = rotate(
        open_repo(path),
        role,
        passphrases=Passphrase(passphrase_file),
        now=datetime.now(UTC),
        old=old,
        keys=keys,
    )
    click.echo(
        f"{role}: key {done.old[:16]} replaced by {done.new[:16]}; root is version {done.root_version}"
    )


def _image(word: str) -> tuple[str, tuple[Place, Path]]:
    name, equals, file = word.partition("=")
    if not (name and equals and file):
        raise UsageError("--image takes NAME=FILE", got=word)
    place = Place(name) if name in {Place.UKI, Place.LINUX, Place.INITRD} else Place.PARTITION
    return name, (place, Path(file))


def _artifact(word: str) -> tuple[str, Path]:
    name, equals, file = word.partition("=")
    if not (name and equals and file):
        raise UsageError("--artifact takes NAME=FILE", got=word)
    return name, Path(file)


def _by_role(option: str, words: Iterable[str]) -> dict[str, int]:
    found = {}
    for word in words:
        role, _, number = word.partition("=")
        if role not in ROLES or not number.isdigit():
            raise UsageError(
                f"{option} takes ROLE=N", expected=f"a role of {', '.join(ROLES)}", got=word
            )
        found[role] = int(number)
    return found


def _salt(text: str | None) -> bytes | None:
    if text is None:
        return None
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise UsageError(
            "--salt takes hexadecimal digits", expected="64 hex digits", got=text
        ) from error
