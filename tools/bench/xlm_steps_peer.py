# pyright: reportMissingImports=false
"""The families of xlm-core, for `xlm_steps_worker.py`: their models, losses and collators."""

from types import SimpleNamespace
from typing import Any

import torch
from xlm.datamodule import SimpleSpaceTokenizer

PACKAGES = ("xlm-core", "xlm-models", "torch", "transformers")


def make_parts(
    family: str, shape: dict[str, int], network: dict[str, Any], sigma_max: float
) -> tuple[Any, Any, Any]:
    """Return a model, a loss and a collator."""
    tokenizer: Any = SimpleSpaceTokenizer.for_numbers(shape["ids"])
    size = (shape["ids"] + 7, shape["width"], 2, shape["nhead"])
    make: Any = {"arlm": _arlm, "mlm": _mlm, "mdlm": _mdlm, "ilm": _ilm, "flexmdm": _flexmdm}
    model, loss, collator = make[family](tokenizer, size, shape, network, sigma_max)
    loss.configure(SimpleNamespace(device=torch.device("cpu")))
    return model, loss, collator


def _arlm(tokenizer: Any, size: Any, shape: dict[str, int], network: Any, _: float) -> Any:
    import arlm.datamodule_arlm as data  # noqa: PLC0415
    import arlm.loss_arlm as losses  # noqa: PLC0415
    import arlm.model_arlm as models  # noqa: PLC0415

    kinds: Any = (models, losses, data)
    model = kinds[0].RotaryTransformerARLMModel(*size, max_length=256, **network)
    collator = (
        kinds[2].ARLMSeq2SeqCollator(tokenizer, None, block_size=14, input_block_size=28)
        if shape["prompt"]
        else kinds[2].DefaultARLMCollator(tokenizer, shape["suffix"] + 2, None)
    )
    return model, kinds[1].ARLMLoss(model, tokenizer), collator


def _mlm(tokenizer: Any, size: Any, shape: dict[str, int], network: Any, _: float) -> Any:
    import mlm.datamodule_mlm as data  # noqa: PLC0415
    import mlm.loss_mlm as losses  # noqa: PLC0415
    import mlm.model_mlm as models  # noqa: PLC0415

    kinds: Any = (models, losses, data)
    model = kinds[0].RotaryTransformerMLMModel(
        *size, mask_idx=tokenizer.mask_token_id, max_length=256, **network
    )
    collator = (
        kinds[2].MLMSeq2SeqTrainCollator(tokenizer, None, block_size=14, input_block_size=28)
        if shape["prompt"]
        else kinds[2].DefaultMLMCollator(tokenizer, shape["suffix"] + 2, None)
    )
    return model, kinds[1].MLMLoss(True, model=model, tokenizer=tokenizer), collator


def _mdlm(tokenizer: Any, size: Any, shape: dict[str, int], network: Any, sigma: float) -> Any:
    import mdlm.datamodule_mdlm as data  # noqa: PLC0415
    import mdlm.loss_mdlm as losses  # noqa: PLC0415
    import mdlm.model_mdlm as models  # noqa: PLC0415
    import mdlm.noise_mdlm as noise  # noqa: PLC0415

    kinds: Any = (models, losses, data, noise)
    model = kinds[0].MDLMModel(
        *size, d_cond=64, mask_idx=tokenizer.mask_token_id, max_length=256, **network
    )
    loss = kinds[1].MDLMLoss(loss_on_padding=True, model=model, tokenizer=tokenizer)
    schedule = kinds[3].ContinuousTimeLogLinearSchedule(0.0, sigma)
    length = shape["prompt"] + shape["suffix"] + 2
    return model, loss, kinds[2].DefaultMDLMCollator(tokenizer, length, schedule)


def _ilm(tokenizer: Any, size: Any, shape: dict[str, int], network: Any, _: float) -> Any:
    import ilm.datamodule_ilm as data  # noqa: PLC0415
    import ilm.loss_ilm as losses  # noqa: PLC0415
    import ilm.model_ilm as models  # noqa: PLC0415

    kinds: Any = (models, losses, data)
    model = kinds[0].RotaryTransformerILMModelWithStoppingClassification(
        *size, max_length=256, final_layer_without_normalization=True, **network
    )
    loss = kinds[1].ILMLossWithMaskedCE(model, tokenizer, length_loss="binary_ce")
    collator = (
        kinds[2].ILMSeq2SeqCollator(tokenizer, None, block_size=14, input_block_size=28)
        if shape["prompt"]
        else kinds[2].DefaultILMCollator(tokenizer, shape["suffix"] + 2, None)
    )
    return model, loss, collator


def _flexmdm(tokenizer: Any, size: Any, shape: dict[str, int], network: Any, _: float) -> Any:
    import flexmdm.datamodule_flexmdm as data  # noqa: PLC0415
    import flexmdm.loss_flexmdm as losses  # noqa: PLC0415
    import flexmdm.model_flexmdm as models  # noqa: PLC0415
    import flexmdm.noise_flexmdm as noise  # noqa: PLC0415

    kinds: Any = (models, losses, data, noise)
    block, prompt = (14, 28) if shape["prompt"] else (shape["suffix"] + 2, 0)
    # Its network is as long as its blocks: the loss divides by that.
    length = block + prompt + 4
    model = kinds[0].FlexMDMModel(
        *size,
        max_length=length,
        d_cond=64,
        len_predict_type="expectation",
        len_head_type="linear",
        **network,
    )
    linear = kinds[3].LinearSchedule
    loss = kinds[1].FlexMDMLoss(
        noise_schedule=kinds[3].FlexMDMNoiseSchedule(linear(), linear()),
        model=model,
        tokenizer=tokenizer,
        insert_loss_fn="expectation",
    )
    return model, loss, kinds[2].FlexMDMTrainCollator(tokenizer, block, prompt)
