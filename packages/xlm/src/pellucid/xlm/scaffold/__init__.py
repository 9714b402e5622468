"""What `xlm-scaffold` does: a new family, whole and working, from one that is there.

A family is copied under another name, by default the small one in `pellucid.xlm.starter`, and what
belongs around it is written too: a project of its own, tests with the kit, and a page. Everything
is made before anything is written, and what is written is there whole or not at all.
"""

from pellucid.xlm.scaffold._request import carry_out

__all__ = ["carry_out"]
