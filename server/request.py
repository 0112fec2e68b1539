"""What an operator asks for when publishing, as a value."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slipstream.delta.errors import FormatError, UsageError
from slipstream.delta.fields import check_name, check_range
from slipstream.delta.limits import ARTIFACTS_MAX, MIB
from slipstream.delta.manifest import Place


@dataclass(frozen=True, slots=True)
class ReleaseRequest:
    """A release to publish. UsageError for words that cannot be; the rest `publish` finds out."""

    version: str
    images: Mapping[str, tuple[Place, Path]]
    artifacts: Mapping[str, Path] = field(default_factory=dict)  # for other updaters
    delta_from: Sequence[str] = ()  # versions
    channel: str = "stable"
    hardware: Sequence[str] = ()  # empty: any
    counter: int | None = None  # None: one above the highest
    floor: int | None = None  # None: that of the channel's newest release
    notes: str = ""
    title: str | None = None  # None: "<product> <version>"
    options: str = ""  # {rootfs.root} stands for the root of the image rootfs
    profile: str = "balanced"
    memory_bytes: int = 96 * MIB  # what a device may use to install it
    jobs: int | None = None  # None: all cores
    uki_certs: Sequence[
        Path
    ] = ()  # certificates that its UKI must be signed by, besides the repository's
    change_images: bool = False  # the images may be named otherwise than the last release's

    def __post_init__(self) -> None:
        try:
            check_name("version", self.version)
            check_name("channel", self.channel)
            for name in self.images:
                check_name("image name", name)
            for name in self.artifacts:
                check_name("artifact name", name)
            check_range("number of artifacts", len(self.artifacts), 0, ARTIFACTS_MAX)
        except FormatError as error:
            raise UsageError(str(error)) from error
        if not self.images and not self.artifacts:
            raise UsageError(
                "a release needs an image or an artifact",
                hint="Name one: --image rootfs=FILE or --artifact os=FILE.swu",
            )

    @property
    def settings(self) -> dict[str, str]:
        """What decides the bytes of a payload besides the images."""
        return {"profile": self.profile, "memory_bytes": str(self.memory_bytes)}
