"""The parts of the ranking model, one file each.

* `ranking_network`: `call(parts, seed=None) -> [batch, width]`: how the inputs meet. `parts` are vectors `[batch, *]` by
  name: `user` and `item` (embedded ids) always, then what there is of `prior`, `user_features`, `item_features`, `context`
  and `history`. A `seed` int64 `[2]` turns dropout on. Where its `apart` is true, each feature is a part of its own,
  `context.device`, so that features can meet each other; else a side's features come as the sum of their vectors.
* `ranking_history`: `call(history, mask, candidate) -> [batch, width]` of `[batch, length, *]`, bool `[batch, length]` and
  `[batch, *]`: what the events before say. Padding has no part in it; no event at all gives zeros.
* `ranking_heads`: `call(vectors) -> [batch, targets]`: one output a target, 0 before training.

They know nothing of vocabularies, losses or serving.
"""
