"""Train, evaluate and sample language models of every family, autoregressive or not, with one harness.

It starts with one example, `masked_mean`, that shows how a module here is written. Put the
package's own ideas beside it, one per file, and then delete it.
"""

from pellucid.xlm._masked_mean import masked_mean

__all__ = ["masked_mean"]
