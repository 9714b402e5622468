"""Families of language models for pellucid.xlm: arlm, mlm and others, independent of each other.

It starts with one example, `masked_mean`, that shows how a module here is written. Put the
package's own ideas beside it, one per file, and then delete it.
"""

from pellucid.families._masked_mean import masked_mean

__all__ = ["masked_mean"]
