"""The threat model names tests; a name that no longer exists is an attack that nobody tests."""

import re
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]


def test_every_test_that_the_threat_model_names_exists() -> None:
    page = (HERE / "docs" / "threat-model.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", page))
    sources = "\n".join(path.read_text() for path in (HERE / "tests").rglob("test_*.py"))
    defined = set(re.findall(r"^(?:async )?def (test_\w+)\(", sources, re.MULTILINE))
    assert len(named) > 40
    assert not named - defined
