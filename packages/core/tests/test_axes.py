import re

import pytest

from pellucid.core.axes import AXES


def test_every_axis_has_a_meaning():
    for name, meaning in AXES.items():
        assert re.fullmatch(r"[a-z][a-z_]*", name)
        assert len(meaning.split()) >= 2, name
    assert len(set(AXES.values())) == len(AXES)


def test_the_glossary_cannot_be_changed():
    with pytest.raises(TypeError, match="item assignment"):
        AXES["batch"] = "something else"
