"""From a dataset's name to batches: tokenizers, managers, packing, collators, resumable loaders.

`TextDataModule` holds a `DatasetManager` for each split and loader. A batch is a function of its
address (seed, epoch, number, rank), its noise included, so that a run that was interrupted goes on
exactly, with any number of workers.
"""

from pellucid.xlm._preprocessing import (
    apply_to_columns,
    batched,
    ids_to_example,
    replicate,
    resolve_callable,
    token_ids_to_input_ids,
    tokenize_infilling,
    tokenize_prompt_and_target,
    tokenize_text,
)
from pellucid.xlm._space_tokenizer import (
    SPECIAL_ROLES,
    SimpleSpaceTokenizer,
    TokenizerMixin,
    check_special_tokens,
)
from pellucid.xlm.datamodule._auto_tokenizer import load_auto_tokenizer
from pellucid.xlm.datamodule._cache import cache_key, cached_table, tokenizer_fingerprint
from pellucid.xlm.datamodule._collators import (
    PADDING_TYPE,
    DefaultCollator,
    DefaultCollatorWithDynamicPadding,
    DefaultCollatorWithPadding,
)
from pellucid.xlm.datamodule._datamodule import SPLIT_NAMES, TextDataModule
from pellucid.xlm.datamodule._empty_datasets import (
    DefaultEmptyDataset,
    MaskedEmptyDataset,
    MaskTexts,
)
from pellucid.xlm.datamodule._examples import (
    BaseBatch,
    BaseCollatorInput,
    InfillingCollatorInput,
    Seq2SeqCollatorInput,
)
from pellucid.xlm.datamodule._infill_collator import InfillCollator
from pellucid.xlm.datamodule._joined import Joined, SuffixLayout
from pellucid.xlm.datamodule._layout import (
    PromptLayout,
    TextLayout,
    pass_through,
    read_rows,
    with_ends,
)
from pellucid.xlm.datamodule._loader import BatchLoader
from pellucid.xlm.datamodule._manager import DatasetManager
from pellucid.xlm.datamodule._other_managers import (
    EvalDatasetManager,
    LocalDatasetManager,
    UnconditionalGenerationDatasetManager,
)
from pellucid.xlm.datamodule._packing import pack_sequences
from pellucid.xlm.datamodule._padding import (
    is_token_mask,
    pad_rows,
    pad_truncate_list,
)
from pellucid.xlm.datamodule._plan import BatchPlan
from pellucid.xlm.datamodule._printing import print_batch
from pellucid.xlm.datamodule._prompt_collator import PromptCollator
from pellucid.xlm.datamodule._ragged import Ragged, flatten_rows
from pellucid.xlm.datamodule._rows import BlockRows, ForwardRows, RowSource
from pellucid.xlm.datamodule._table import Column, Table

__all__ = [
    "PADDING_TYPE",
    "SPECIAL_ROLES",
    "SPLIT_NAMES",
    "BaseBatch",
    "BaseCollatorInput",
    "BatchLoader",
    "BatchPlan",
    "BlockRows",
    "Column",
    "DatasetManager",
    "DefaultCollator",
    "DefaultCollatorWithDynamicPadding",
    "DefaultCollatorWithPadding",
    "DefaultEmptyDataset",
    "EvalDatasetManager",
    "ForwardRows",
    "InfillCollator",
    "InfillingCollatorInput",
    "Joined",
    "LocalDatasetManager",
    "MaskTexts",
    "MaskedEmptyDataset",
    "PromptCollator",
    "PromptLayout",
    "Ragged",
    "RowSource",
    "Seq2SeqCollatorInput",
    "SimpleSpaceTokenizer",
    "SuffixLayout",
    "Table",
    "TextDataModule",
    "TextLayout",
    "TokenizerMixin",
    "UnconditionalGenerationDatasetManager",
    "apply_to_columns",
    "batched",
    "cache_key",
    "cached_table",
    "check_special_tokens",
    "flatten_rows",
    "ids_to_example",
    "is_token_mask",
    "load_auto_tokenizer",
    "pack_sequences",
    "pad_rows",
    "pad_truncate_list",
    "pass_through",
    "print_batch",
    "read_rows",
    "replicate",
    "resolve_callable",
    "token_ids_to_input_ids",
    "tokenize_infilling",
    "tokenize_prompt_and_target",
    "tokenize_text",
    "tokenizer_fingerprint",
    "with_ends",
]
