"""Stage a release's boot files, as they are kept on the state partition, on the boot partition.

Done when an install has written its images, and again when a boot entry was lost. Both read and write
tens of MB on what may be a slow medium: in a thread, so that the agent goes on feeding its watchdog.
"""

from slipstream.delta.manifest import Manifest
from slipstream.installer.blocking import GoOn, in_thread
from slipstream.installer.device import Device
from slipstream.installer.evidence import boot_files, check_kept_files


async def stage_kept_files(device: Device, manifest: Manifest, slot: str) -> None:
    """S7. The state folder has them since they were verified, and may be writable to others: they
    are checked once more. Raises DeviceFault, Rejected; cancelled, it ends with the piece at hand.
    """

    def stage(go_on: GoOn) -> None:
        check_kept_files(device, manifest, slot, go_on)
        device.boot.stage(slot, manifest.counter, boot_files(device, manifest, slot), go_on)

    await in_thread(stage)
