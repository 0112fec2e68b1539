"""`slipstream repo uki` as it is typed: what it prints, and how it ends."""

import json
import subprocess
import sys
from pathlib import Path

from tests.server.boot_parts import OS_RELEASE, any_kernel, make_signer, write_signer
from tests.server.repositories import make_repo


def run(*words: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "slipstream", *map(str, words)],
        capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done


def test_build_sign_publish(tmp_path: Path) -> None:
    repo = make_repo(tmp_path)
    image, os_release, uki = (tmp_path / name for name in ("root.img", "os-release", "1.efi"))
    image.write_bytes(b"root" * 1000)
    os_release.write_text(OS_RELEASE)
    key, certificate = write_signer(tmp_path, make_signer("owner"))
    rootfs = ("--image", f"rootfs={image}")
    words = ("repo", "uki", repo.path, *rootfs, "--linux", any_kernel(), "--os-release", os_release)

    plain = run(*words, "--version", "1", "-o", uki)
    assert plain.returncode == 0
    assert plain.stdout.startswith(f"{uki}: gateway 1, ")
    assert "note: not signed" in plain.stderr
    refused = run(
        "repo", "publish", repo.path, "--version", "1", *rootfs, "--image", f"uki={uki}", "--uki-cert", certificate
    )  # fmt: skip
    assert (refused.returncode, refused.stdout) == (4, "")
    assert "CN=owner" in refused.stderr

    signed = run(*words, "-o", uki, "--sign-key", key, "--sign-cert", certificate, "--json")
    said = json.loads(signed.stdout)
    assert (signed.returncode, signed.stderr) == (0, "")
    assert said["bytes"] == uki.stat().st_size
    assert (said["signed_by"], said["image_version"], said["notes"]) == ("CN=owner", "0.9", [])
    assert said["cmdline"].startswith(f"roothash={said['roots']['rootfs']} gpt panic=10 ")

    half = run(*words, "-o", uki, "--sign-key", key)
    assert half.returncode == 2
    assert "belong together" in half.stderr
