"""Callbacks, under the module name that code written for tptt imports them from."""

from pellucid.tptt._callbacks import LiZACallback, SaveBestModelCallback, ensure_int

__all__ = ["LiZACallback", "SaveBestModelCallback", "ensure_int"]
