import pytest
from hypothesis import given
from hypothesis import strategies as st

from pellucid.core import ArgumentError
from pellucid.tptt import RECURRENT_MODES, ModeError, RecurrentMode, get_mode_name, parse_mode_name
from pellucid.tptt._modes import resolve_mode


@given(
    order=st.integers(1, 12),
    gate_type=st.sampled_from(["k", "v", "kv"]),
    linear=st.booleans(),
    trick=st.sampled_from(["derivative", "rotative", "combined"]),
)
def test_a_name_is_read_as_what_it_was_made_of(order, gate_type, linear, trick):
    trick = trick if order > 1 else "derivative"
    parts = {"order": order, "gate_type": gate_type, "linear": linear, "trick": trick}
    assert parse_mode_name(get_mode_name(**parts)) == parts


@pytest.mark.parametrize("name", RECURRENT_MODES)
def test_the_published_names_stand_for_the_published_modes(name):
    assert parse_mode_name(name) == dict(RECURRENT_MODES[name])
    assert get_mode_name(**RECURRENT_MODES[name]) == name


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("delta_product_kv_gelu_r", (2, "kv", False, "rotative")),
        ("delta_product_3_v_gelu_c", (3, "v", False, "combined")),
        ("delta_rule_kv_gelu", (1, "kv", False, "derivative")),
        ("delta_product_4", (4, "k", True, "derivative")),
    ],
)
def test_names_of_every_length(name, parts):
    assert tuple(parse_mode_name(name).values()) == parts


@pytest.mark.parametrize(
    "name", ["delta_rul", "delta_rule_gelu_v", "delta_productX", "delta_product_foo_bar", "", "k"]
)
def test_a_misspelt_mode_is_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"^Unknown mode {name!r}"):
        parse_mode_name(name)


def test_near_names_are_offered():
    with pytest.raises(ModeError, match="Did you mean 'delta_rule'"):
        parse_mode_name("delta_rul")


def test_a_product_of_no_factors_is_refused():
    with pytest.raises(ArgumentError, match="order must be 1 or more, got 0"):
        parse_mode_name("delta_product_0")


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        ({"gate_type": "q"}, "gate_type 'q' is not known"),
        ({"trick": "none"}, "trick 'none' is not known"),
        ({"ordre": 2}, "'ordre' is not known. Use one of order, gate_type"),
    ],
)
def test_an_unknown_part_is_refused(parts, match):
    with pytest.raises(ModeError, match=match):
        resolve_mode("delta_rule", parts)


def test_parts_go_before_the_name_and_the_newer_names_of_tricks_are_known():
    mode = resolve_mode("delta_rule", {"order": 3, "trick": "rdt"})
    assert mode == RecurrentMode(order=3, trick="combined")


def test_a_published_mode_cannot_be_changed():
    with pytest.raises(TypeError, match="item assignment"):
        RECURRENT_MODES["delta_rule"]["order"] = 2
