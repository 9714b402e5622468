"""The smallest family that exercises all of the harness: it denoises rows of numbers."""

import lightning
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.utils.data import DistributedSampler

from pellucid.xlm.contracts import LossFunction, Model, NLLBound, Predictor

VOCAB, WIDTH = 12, 6


class TinyModel(Model):
    def __init__(self, d_model: int = 8, dropout: float = 0.1):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, d_model)
        self.norm = nn.LayerNorm(d_model)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(d_model, VOCAB)

    def forward(self, ids):
        return self.head(self.dropout(self.norm(self.embed(ids))))


class TinyLoss(LossFunction[dict, dict]):
    def __init__(self, model=None, tokenizer=None, explode_at: int | None = None):
        self.model = model
        self.tokenizer = tokenizer
        self.explode_at = explode_at
        self.device = None

    def configure(self, pl_module):
        self.device = pl_module.device

    def loss_fn(self, batch, batch_idx=None, dataloader_idx=None, dataloader_name=None):
        ids = batch["input_ids"]
        noise = torch.rand(ids.shape, generator=self.generator, device=ids.device) < 0.3
        logits = self.model(ids.masked_fill(noise, 0))
        loss = nn.functional.cross_entropy(logits.transpose(1, 2), ids)
        if self.explode_at is not None and batch_idx == self.explode_at:
            loss = loss * torch.nan
        return {"loss": loss}

    def nll_bound(self, batch):
        ids = batch["input_ids"]
        logits = self.model(ids)
        nats = nn.functional.cross_entropy(logits.transpose(1, 2), ids, reduction="none").sum(1)
        return NLLBound(nats=nats, tokens=torch.full((len(ids),), WIDTH))


class TinyPredictor(Predictor[dict, dict]):
    def __init__(self, model=None, tokenizer=None, noise_schedule=None):
        self.model = model
        self.tokenizer = tokenizer
        self.noise_schedule = noise_schedule

    def predict(self, batch, batch_idx=None, dataloader_idx=None, dataloader_name=None):
        ids = self.model(batch["input_ids"]).argmax(-1)
        count = len(ids)
        return {
            "text": self.tokenizer.batch_decode(ids),
            "ids": ids,
            "output_start_idx": 0,
            "time_taken": [0.0] * count,
            "steps_taken": [1] * count,
        }

    def to_dict(self, batch, preds, batch_idx=None, dataloader_idx=None, dataloader_name=None):
        return [
            {"text": text, "steps_taken": steps, "row": row, "extra": 1}
            for text, steps, row in zip(
                preds["text"], preds["steps_taken"], batch["row"].tolist(), strict=True
            )
        ]


class TinyTokenizer:
    full_vocab_size = VOCAB

    def batch_decode(self, rows, skip_special_tokens=False):
        return [" ".join(map(str, row.tolist())) for row in rows]


def same_ids(batch, output, tokenizer=None):
    return {"pred": output["ids"], "target": batch["input_ids"]}


class TinyLoader:
    """Shuffled rows whose order is a function of the epoch, from any batch of it on."""

    def __init__(self, rows, batch_size: int, shuffle: bool = True):
        self.rows = rows
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.epoch = 0
        self.batch = 0

    def __len__(self):
        return len(self._mine()) // self.batch_size

    def _mine(self):
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return list(DistributedSampler(self.rows, shuffle=False))
        return list(range(len(self.rows)))

    def __iter__(self):
        order = torch.tensor(self._mine())
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.epoch)
            order = order[torch.randperm(len(order), generator=generator)]
        epoch, first, self.batch = self.epoch, self.batch, 0
        for index in range(first, len(self)):
            self.at = {"epoch": epoch, "batch": index + 1}
            chosen = order[index * self.batch_size : (index + 1) * self.batch_size]
            yield {"input_ids": self.rows[chosen], "row": chosen}

    def state_dict(self):
        return dict(getattr(self, "at", {"epoch": self.epoch, "batch": 0}))

    def load_state_dict(self, state_dict):
        self.epoch, self.batch = state_dict["epoch"], state_dict["batch"]


class TinyData(lightning.LightningDataModule):
    noise_schedule = None

    def __init__(self, size: int = 20, batch_size: int = 4):
        super().__init__()
        self.tokenizer = TinyTokenizer()
        rows = torch.randint(1, VOCAB, (size, WIDTH), generator=torch.Generator().manual_seed(1))
        self.train = TinyLoader(rows, batch_size)
        self.rows, self.batch_size = rows, batch_size
        splits = ("val", "test")
        self.dataloader_names = {
            "train": ["lm"],
            "predict": ["prediction"],
            **{split: ["lm", "prediction"] for split in splits},
        }
        self.dataloader_kinds = {
            "train": ["loss"],
            "predict": ["predict"],
            **{split: ["loss", "predict"] for split in splits},
        }

    def set_epoch(self, epoch):
        self.train.epoch = epoch

    def fingerprint(self):
        return {"rows": int(self.rows.sum())}

    def train_dataloader(self):
        return self.train

    def val_dataloader(self):
        return [TinyLoader(self.rows[:8], self.batch_size, shuffle=False) for _ in range(2)]

    test_dataloader = val_dataloader

    def predict_dataloader(self):
        return TinyLoader(self.rows[:8], self.batch_size, shuffle=False)


def metric(kind: str, update_fn: str, **settings) -> dict:
    return {
        "_target_": "pellucid.xlm.metrics.MetricWrapper",
        "metric": {"_target_": kind},
        "update_fn": update_fn,
        **settings,
    }


MEAN_LOSS = metric("torchmetrics.MeanMetric", "pellucid.xlm.metrics.mean_metric_update_fn")
PERPLEXITY = metric("pellucid.xlm.metrics.Perplexity", "pellucid.xlm.metrics.nll_bound_update_fn")
SAME = metric("pellucid.xlm.metrics.ExactMatch", "xlm_tiny_family.same_ids")


def tiny_config(run_dir, **changes):
    cfg = {
        "seed": 3,
        "compile": False,
        "model": {"_target_": "xlm_tiny_family.TinyModel", "dropout": 0.1},
        "loss": {"_target_": "xlm_tiny_family.TinyLoss"},
        "predictor": {"_target_": "xlm_tiny_family.TinyPredictor"},
        "optimizer": {"_target_": "torch.optim.AdamW", "lr": 0.01, "weight_decay": 0.01},
        "lr_scheduler": {"name": "cosine", "num_warmup_steps": 2, "num_training_steps": 40},
        "log_predictions": {"_target_": "pellucid.xlm.callbacks.LogPredictions"},
        "reported_metrics": {
            "train": {"lm": {"accumulated_loss": MEAN_LOSS}},
            "val": {
                "lm": {"accumulated_loss": MEAN_LOSS, "perplexity": PERPLEXITY},
                "prediction": {"same": SAME},
            },
        },
        "paths": {"run_dir": str(run_dir)},
    }
    return OmegaConf.merge(OmegaConf.create(cfg), OmegaConf.create(changes))
