"""What rows of a head's logits give to the policy loss, and d logits of them.

Three ways with one result: one Triton kernel; plain torch, tile by tile; and, where the vocabulary
is cut over ranks, statistics, an exchange of them, the loss, and then the gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from .dispatch import tile_rows, use_triton
from .head_chunks import Chunk
from .head_form import HeadForm
from .loss_config import PolicyLossConfig
from .loss_terms import IGNORE, RowResults, Terms, TokenInputs, live_only, token_terms
from .row_parts import finished
from .row_plain import RowTile, d_logits_of, row_scores
from .rows import rows_backward, rows_forward


@dataclass(frozen=True, kw_only=True)
class LossBatch:
    """The whole batch; tensors are [N]. weights: of tokens, relative to the largest one. scored:
    rows that count. results are written to, row by row."""

    labels: Tensor
    inputs: TokenInputs
    weights: Tensor
    scored: Tensor
    form: HeadForm
    config: PolicyLossConfig
    group: dist.ProcessGroup | None
    gradient: bool
    results: RowResults

    @property
    def entropy_gradient(self) -> bool:
        return self.gradient and self.config.entropy_coef != 0


def score_rows(batch: LossBatch, chunk: Chunk, d_logits: Tensor) -> None:
    """Write the rows' results, and with `gradient` d logits, perhaps over the logits."""
    if batch.group is not None:
        _score_shards(batch, chunk, d_logits)
    elif use_triton(chunk.logits):
        from .linear_loss_triton import score_rows_triton

        score_rows_triton(batch, chunk, d_logits)
    else:
        _score_plain(batch, chunk, d_logits)


def _at(batch: LossBatch, rows: slice | Tensor) -> tuple[TokenInputs, Tensor, Tensor]:
    """(inputs, labels, scored) of some rows; where they are not scored, nothing of them is used."""
    scored = batch.scored[rows]
    clean = live_only(scored, batch.weights.dtype)
    return batch.inputs.each(lambda one: clean(one[rows])), batch.labels[rows], scored


def _write(batch: LossBatch, rows: slice | Tensor, scored: Tensor, found: RowResults) -> None:
    for all_rows, part in zip(batch.results, found, strict=True):
        all_rows[rows] = part.where(scored, 0.0)


def _upstream(
    batch: LossBatch, weights: Tensor, scored: Tensor, terms: Terms
) -> tuple[Tensor, Tensor | None]:
    """(d / d logp, d / d entropy or None) of the loss; a row that is not scored has none."""
    g_logp = (weights * (terms.d_log_ratio + terms.d_logp)).where(scored, 0.0)
    if not batch.entropy_gradient:
        return g_logp, None
    return g_logp, (weights * terms.d_entropy).where(scored, 0.0)


def _score_plain(batch: LossBatch, chunk: Chunk, d_logits: Tensor) -> None:
    size = tile_rows(chunk.logits.shape[1])
    count = len(chunk.logits)
    inputs, labels, scored = _at(batch, chunk.rows)
    labels, form = labels.where(scored, 0), batch.form.at(chunk.rows)
    form = form.each_temperature(lambda one: one.where(scored, 1.0))
    weights = batch.weights[chunk.rows]
    parts = []
    for start in range(0, count, size):
        tile = slice(start, start + size)
        mine = form.at(tile)
        scores, d_score = row_scores(chunk.logits[tile], mine, scratch=True)
        row = RowTile(scores, labels[tile], mine)
        sums = row.parts()
        found = finished(sums, 1.0)
        given = inputs.each(lambda tensor, tile=tile: tensor[tile])
        old_logp = found.logp if given.old_logp is None else given.old_logp
        terms = token_terms(
            logp=found.logp,
            log_ratio=found.logp - old_logp,
            inputs=given,
            entropy=found.entropy,
            config=batch.config,
        )
        parts.append(RowResults(found.logp, found.entropy, terms.loss, terms.ratio, terms.kl))
        if batch.gradient:
            upstream = _upstream(batch, weights[tile], scored[tile], terms)
            place = d_logits[tile]
            d_scores = row.gradient(sums.total, found.entropy, *upstream, out=place)
            made = d_logits_of(d_scores, d_score, mine)
            if made is not place:
                place.copy_(made)
    _write(batch, chunk.rows, scored, RowResults(*map(torch.cat, zip(*parts, strict=True))))


def _score_shards(batch: LossBatch, chunk: Chunk, d_logits: Tensor) -> None:
    inputs, labels, scored = _at(batch, chunk.rows)
    labels, form = labels.where(scored, IGNORE), batch.form.at(chunk.rows)
    found = rows_forward(
        chunk.logits, labels, form, ignore_index=IGNORE, group=batch.group, own=True
    )
    old_logp = found.logp if inputs.old_logp is None else inputs.old_logp
    terms = token_terms(
        logp=found.logp,
        log_ratio=found.logp - old_logp,
        inputs=inputs,
        entropy=found.entropy,
        config=batch.config,
    )
    results = RowResults(found.logp, found.entropy, terms.loss, terms.ratio, terms.kl)
    _write(batch, chunk.rows, scored, results)
    if batch.gradient:
        g_logp, g_entropy = _upstream(batch, batch.weights[chunk.rows], scored, terms)
        rows_backward(
            g_logp=g_logp,
            g_entropy=g_entropy,
            logits=chunk.logits,
            labels=labels,
            entropy=found.entropy,
            top=found.top,
            total=found.total,
            form=form,
            ignore_index=IGNORE,
            out=d_logits,
            own=True,
        )
