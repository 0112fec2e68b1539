"""Boot files for tests: the smallest unified kernel images that systemd-boot's rules accept."""

from slipstream.delta.pe import dump_pe


def make_uki(
    version: str,
    *,
    cmdline: str = "",
    image_id: str = "gateway",
    kernel: bytes = b"KERNEL" * 700,
    osrel: str | None = None,
) -> bytes:
    """A UKI; `osrel` replaces the os-release made of id and version."""
    text = (
        f'ID=debian\nIMAGE_ID={image_id}\nIMAGE_VERSION="{version}"\n' if osrel is None else osrel
    )
    return dump_pe(
        {".osrel": text.encode(), ".cmdline": cmdline.encode() + b"\n\0", ".linux": kernel}
    )
