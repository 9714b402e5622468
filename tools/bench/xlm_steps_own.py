"""The families of this workspace, for `xlm_steps_worker.py`: their models, losses and collators."""

from typing import Any

from pellucid.families import arlm, flexmdm, ilm, mdlm, mlm
from pellucid.xlm.datamodule import SimpleSpaceTokenizer
from pellucid.xlm.noise import ContinuousTimeLogLinear

PACKAGES = ("torch",)


def make_parts(
    family: str, shape: dict[str, int], network: dict[str, Any], sigma_max: float
) -> tuple[Any, Any, Any]:
    """Return a model, a loss and a collator."""
    tokenizer = SimpleSpaceTokenizer.for_numbers(shape["ids"])
    size = (len(tokenizer), shape["width"], 2, shape["nhead"])
    block, prompt = (14, 28) if shape["prompt"] else (shape["suffix"] + 2, 0)
    if family == "arlm":
        model = arlm.RotaryTransformerARLMModel(*size, max_length=256, **network)
        collator = (
            arlm.ARLMSeq2SeqCollator(tokenizer, block, input_block_size=prompt, truncate="max")
            if prompt
            else arlm.DefaultARLMCollator(tokenizer, block)
        )
        return model, arlm.ARLMLoss(model, tokenizer), collator
    if family == "mlm":
        model = mlm.RotaryTransformerMLMModel(*size, max_length=256, **network)
        collator = (
            mlm.MLMSeq2SeqTrainCollator(tokenizer, block, input_block_size=prompt, truncate="max")
            if prompt
            else mlm.DefaultMLMCollator(tokenizer, block)
        )
        return model, mlm.MLMLoss(model=model, tokenizer=tokenizer), collator
    if family == "mdlm":
        schedule = ContinuousTimeLogLinear(sigma_max)
        model = mdlm.MDLMModel(
            *size, d_cond=64, mask_idx=tokenizer.mask_token_id, max_length=256, **network
        )
        whole = mdlm.DefaultMDLMCollator(tokenizer, shape["prompt"] + shape["suffix"] + 2, schedule)
        return model, mdlm.MDLMLoss(model=model, tokenizer=tokenizer), whole
    if family == "ilm":
        model = ilm.RotaryTransformerILMModelWithStoppingClassification(
            *size, max_length=256, final_layer_without_normalization=True, **network
        )
        collator = (
            ilm.ILMSeq2SeqCollator(tokenizer, block, input_block_size=prompt, truncate="max")
            if prompt
            else ilm.DefaultILMCollator(tokenizer, block)
        )
        return model, ilm.ILMLossWithMaskedCE(model, tokenizer), collator
    model = flexmdm.FlexMDMModel(
        *size,
        max_length=256,
        d_cond=64,
        len_predict_type="expectation",
        len_head_type="linear",
        **network,
    )
    collator = flexmdm.FlexMDMTrainCollator(
        tokenizer, block, input_block_size=prompt, truncate="max"
    )
    return model, flexmdm.FlexMDMLoss(None, model, tokenizer), collator
