"""The table of limits: one line, one value."""

import ast
from collections import Counter
from pathlib import Path

from slipstream.delta import limits


def test_no_limit_is_set_twice() -> None:
    # The second one silently won: a device refused roles of 17 keys where 64 stood in the table.
    body = ast.parse(Path(limits.__file__).read_text()).body
    names = Counter(
        target.id
        for statement in body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    )
    assert [name for name, count in names.items() if count > 1] == []
    assert limits.ROLE_KEYS_MAX == 64
