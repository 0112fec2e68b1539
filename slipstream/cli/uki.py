"""`slipstream repo uki` and `secure-boot-keys`: what a release boots from, for the build machine."""

import json
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import click

from slipstream.cli.passphrase import FILE, Passphrase, passphrase_option
from slipstream.cli.progress import Steps, megabytes
from slipstream.delta.errors import UsageError

FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.argument("path", metavar="REPO", type=FOLDER)
@click.option(
    "--image",
    "images",
    metavar="NAME=FILE",
    multiple=True,
    required=True,
    help="The image that the kernel mounts: rootfs, usr, or one of each.",
)
@click.option(
    "--change-images",
    is_flag=True,
    help="The images are named otherwise than the last release's, and that is meant.",
)
@click.option("--linux", required=True, type=FILE, help="The kernel, with an EFI stub of its own.")
@click.option(
    "--initrd", "initrds", type=FILE, multiple=True, help="Repeatable: one behind the other."
)
@click.option(
    "--os-release",
    required=True,
    type=FILE,
    help="os-release file. IMAGE_ID is the repository's product unless the file has one.",
)
@click.option(
    "--version",
    help="The release's version, as IMAGE_VERSION: systemd-boot starts the highest. As in the file by default.",
)
@click.option(
    "--cmdline",
    default="",
    help="Kernel command line. What ties it to the images and what resets a device is put in front.",
)
@click.option(
    "--stub",
    type=FILE,
    help="systemd's EFI stub; by default that of /usr/lib/systemd/boot/efi for the kernel's machine.",
)
@click.option("--splash", type=FILE, help="A BMP picture that the stub shows.")
@click.option("--uname", help="The kernel's version; an x86 kernel says it itself.")
@click.option(
    "--channel",
    default="stable",
    show_default=True,
    help="Whose published releases the version is compared with.",
)
@click.option(
    "--sign-key",
    type=FILE,
    help="Sign for Secure Boot: RSA key, PEM, which nobody else can read. Needs sbsigntool.",
)
@click.option(
    "--sign-cert", type=FILE, help="The key's certificate, PEM or DER; in the devices' db."
)
@passphrase_option
@click.option(
    "--output", "-o", required=True, type=FILE, help="The image. Whole or not there at all."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def uki(
    path: Path,
    images: tuple[str, ...],
    change_images: bool,
    linux: Path,
    initrds: tuple[Path, ...],
    os_release: Path,
    version: str | None,
    cmdline: str,
    stub: Path | None,
    splash: Path | None,
    uname: str | None,
    channel: str,
    sign_key: Path | None,
    sign_cert: Path | None,
    passphrase_file: Path | None,
    output: Path,
    as_json: bool,
) -> None:
    """Make a unified kernel image whose command line names the root hash of a release's image.

    The same files make the same bytes, but for the signature. docs/uki.md shows the whole way.
    """
    from slipstream.server.repo import open_repo  # noqa: PLC0415
    from slipstream.server.secure_boot import load_signer  # noqa: PLC0415
    from slipstream.server.uki import UkiRequest, build_uki  # noqa: PLC0415

    request = UkiRequest(
        images=dict(_image(word) for word in images),
        linux=linux,
        os_release=os_release,
        initrds=initrds,
        cmdline=cmdline,
        version=version,
        stub=stub,
        splash=splash,
        uname=uname,
        channel=channel,
        change_images=change_images,
    )
    signer = None
    if sign_key is not None and sign_cert is not None:
        signer = load_signer(sign_key, sign_cert, Passphrase(passphrase_file))
    elif sign_key is not None or sign_cert is not None:
        raise UsageError("--sign-key and --sign-cert belong together")
    with Steps(quiet=as_json) as steps:
        built = build_uki(open_repo(path), request, output, signer=signer, on_progress=steps.report)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "path": str(built.path),
                    "bytes": built.size,
                    "cmdline": built.cmdline,
                    "roots": built.roots,
                    "image_id": built.key.sort_key,
                    "image_version": built.key.version,
                    "signed_by": built.signed_by,
                    "notes": built.notes,
                }
            )
        )
        return
    for note in built.notes:
        click.echo(f"note: {note}", err=True)
    click.echo(f"{built.path}: {built.key.sort_key} {built.key.version}, {megabytes(built.size)}")
    click.echo(f"  command line: {built.cmdline}")
    if built.signed_by is not None:
        click.echo(f"  signed by {built.signed_by}")


@click.command("secure-boot-keys")
@click.argument("folder", metavar="DIR", type=FOLDER)
@click.option("--name", required=True, help="Whose keys they are, for the certificates.")
@click.option(
    "--add-db",
    is_flag=True,
    help="DIR has keys: make one more for db, and the signed updates that bring it to devices.",
)
@click.option(
    "--insecure-no-passphrase",
    is_flag=True,
    help="Do not encrypt the private keys. Development only.",
)
@passphrase_option
def secure_boot_keys(
    folder: Path,
    name: str,
    add_db: bool,
    insecure_no_passphrase: bool,
    passphrase_file: Path | None,
) -> None:
    """Make an owner's keys for Secure Boot in DIR: PK, KEK, db, and the files that enrol them.

    docs/uki.md says what belongs where.
    """
    from slipstream.server.keys import no_passphrase  # noqa: PLC0415
    from slipstream.server.owner_keys import add_db_key, make_owner_keys  # noqa: PLC0415

    asked = Passphrase(passphrase_file, confirm=not add_db)
    passphrases = no_passphrase if insecure_no_passphrase else asked
    now = datetime.now(UTC).replace(microsecond=0)
    if add_db:
        key = add_db_key(folder, name, passphrases=passphrases, now=now)
        click.echo(f"{folder / key}.key: a new key for db, and its certificate {key}.crt")
        click.echo(f"Bring {key}-add.auth to every device before anything is signed by it alone.")
        return
    make_owner_keys(folder, name, passphrases=passphrases, now=now, owner=uuid4())
    click.echo(f"{folder}: PK, KEK and db of {name}")
    click.echo(f"Sign with {folder / 'db.key'}; keep PK.key and KEK.key offline and secret.")
    click.echo(
        f"Devices enrol {folder / 'auto'}/*.auth from loader/keys/auto/ of the boot partition."
    )


def _image(word: str) -> tuple[str, Path]:
    name, equals, file = word.partition("=")
    if not (name and equals and file):
        raise UsageError("--image takes NAME=FILE", got=word)
    return name, Path(file)
