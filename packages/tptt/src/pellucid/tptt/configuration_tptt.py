"""Configs, under the module name that code written for tptt imports them from."""

from pellucid.tptt._card import extract_template_variables, generate_model_card
from pellucid.tptt._config import TpttConfig, convert_sets_to_lists
from pellucid.tptt._modes import get_mode_name, parse_mode_name

__all__ = [
    "TpttConfig",
    "convert_sets_to_lists",
    "extract_template_variables",
    "generate_model_card",
    "get_mode_name",
    "parse_mode_name",
]
