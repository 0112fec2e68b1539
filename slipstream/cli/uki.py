"""`slipstream repo uki`: unified kernel images, for the build machine."""

import json
from pathlib import Path

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


def _image(word: str) -> tuple[str, Path]:
    name, equals, file = word.partition("=")
    if not (name and equals and file):
        raise UsageError("--image takes NAME=FILE", got=word)
    return name, Path(file)
