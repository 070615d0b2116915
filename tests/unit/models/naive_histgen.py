"""The published HistGen written out in NumPy, float64, one slide, one region, one head at a time.

Follows the measured description of the authors' code, shares nothing with histgen_lib, and reads weights
by the authors' names. Slow and plain on purpose: it is what the fast network is compared with.
"""

from __future__ import annotations

import math

import numpy as np

CORE = "encoder_decoder."


class RandomWeights:
    """Collects weights of the pieces the authors' network is made of."""

    def __init__(self, seed, d_model, d_ff):
        self.rng = np.random.default_rng(seed)
        self.d_model, self.d_ff = d_model, d_ff
        self.state = {}

    def normal(self, name, *shape, mean=0.0, spread=1.0):
        self.state[name] = self.rng.normal(mean, spread, shape).astype(np.float32)

    def linear(self, name, out, into):
        self.normal(f"{name}.weight", out, into, spread=1.2 / math.sqrt(into))
        self.normal(f"{name}.bias", out, spread=0.1)

    def attention(self, name):
        for place in range(4):
            self.linear(f"{name}.linears.{place}", self.d_model, self.d_model)

    def norm(self, name):
        self.normal(f"{name}.a_2", self.d_model, mean=1.0, spread=0.1)
        self.normal(f"{name}.b_2", self.d_model, spread=0.1)

    def feed_forward(self, name):
        self.linear(f"{name}.w_1", self.d_ff, self.d_model)
        self.linear(f"{name}.w_2", self.d_model, self.d_ff)

    def block(self, name, *attentions):
        for attention in attentions:
            self.attention(f"{name}.{attention}")
        self.feed_forward(f"{name}.feed_forward")
        for place in range(len(attentions) + 1):
            self.norm(f"{name}.sublayer.{place}.norm")


def random_state_dict(seed, *, vocab_words, d_model, d_ff, d_vf, cmm_size, input_dim, num_layers=3, **_):
    """Weights under the authors' names, unread ones and aliases included."""
    w = RandomWeights(seed, d_model, d_ff)
    w.linear("wsi_mapping", d_vf, input_dim)
    w.linear(f"{CORE}att_embed.0", d_model, d_vf)
    w.normal(f"{CORE}memory_matrix", cmm_size, d_model)
    w.attention(f"{CORE}cmn")
    w.attention(f"{CORE}attn_mem")
    for layer in range(2):
        name = f"{CORE}model.encoder.layer.{layer}"
        w.normal(f"{name}.global_token", 1, 1, d_model)
        w.attention(f"{name}.attn")
        w.feed_forward(f"{name}.ff")
        w.block(f"{name}.region_encoder", "self_attn")
    w.block(f"{CORE}model.encoder.layer.0.WSI_encoder", "self_attn")
    w.normal(f"{CORE}model.encoder.layer.0.position_embeddings.weight", 7, d_model)
    w.norm(f"{CORE}model.encoder.norm")
    w.linear(f"{CORE}model.encoder.pooler.dense", d_model, d_model)
    w.linear(f"{CORE}model.encoder.pooler.attentive_pooling.lin_proj", d_model, d_model)
    w.normal(f"{CORE}model.encoder.pooler.attentive_pooling.v.weight", 1, d_model)
    for layer in range(num_layers):
        w.block(f"{CORE}model.decoder.layers.{layer}", "self_attn", "src_attn")
    w.norm(f"{CORE}model.decoder.norm")
    w.normal(f"{CORE}model.tgt_embed.0.lut.weight", vocab_words + 1, d_model, spread=0.2)
    w.linear(f"{CORE}logit", vocab_words + 1, d_model)
    shared = {name: value for name, value in w.state.items() if name.startswith(f"{CORE}cmn.")}
    w.state |= {name.replace("cmn.", "model.cmn."): value for name, value in shared.items()}
    return w.state


class NaiveHistGen:
    def __init__(self, state, *, num_heads, topk, prototype_num, region_size, **_):
        self.w = {name: value.astype(np.float64) for name, value in state.items()}
        self.heads, self.topk, self.prototypes, self.size = num_heads, topk, prototype_num, region_size
        self.d = self.w[f"{CORE}logit.weight"].shape[1]

    def linear(self, name, x):
        return x @ self.w[f"{name}.weight"].T + self.w.get(f"{name}.bias", 0.0)

    def norm(self, name, x):
        spread = x.std(axis=-1, ddof=1, keepdims=True) + 1e-6
        return self.w[f"{name}.a_2"] * (x - x.mean(-1, keepdims=True)) / spread + self.w[f"{name}.b_2"]

    def attend(self, name, x, memory, seen=None, topk=None):
        q, k, v = (self.linear(f"{name}.linears.{place}", of) for place, of in enumerate((x, memory, memory)))
        width = self.d // self.heads
        out = np.zeros_like(q)
        for head in range(self.heads):
            part = slice(head * width, (head + 1) * width)
            for row in range(len(x)):
                scores = k[:, part] @ q[row, part] / math.sqrt(width)
                if seen is not None:
                    scores = np.where(seen[row], scores, -np.inf)
                if topk is not None:
                    scores[np.argsort(scores)[: len(scores) - topk]] = -np.inf
                out[row, part] = softmax(scores) @ v[:, part]
        return self.linear(f"{name}.linears.3", out)

    def feed_forward(self, name, x):
        return self.linear(f"{name}.w_2", np.maximum(self.linear(f"{name}.w_1", x), 0))

    def block(self, name, x, seen):
        inner = self.norm(f"{name}.sublayer.0.norm", x)
        x = x + self.attend(f"{name}.self_attn", inner, inner, np.tile(seen, (len(x), 1)))
        return x + self.feed_forward(f"{name}.feed_forward", self.norm(f"{name}.sublayer.1.norm", x))

    def recall(self, x):
        return self.attend(f"{CORE}cmn", x, self.w[f"{CORE}memory_matrix"], topk=self.topk)

    def encode(self, features):
        x = np.maximum(self.linear(f"{CORE}att_embed.0", self.linear("wsi_mapping", features)), 0)
        recalled = self.recall(x[self.prototype_rows(len(x))])
        x = x + self.attend(f"{CORE}attn_mem", x, recalled)
        regions, seen = self.regions(x)
        first = f"{CORE}model.encoder.layer.0"
        places = positions(self.size, self.d)
        regions = [
            self.block(f"{first}.region_encoder", r + places, s) for r, s in zip(regions, seen, strict=True)
        ]
        heads = np.stack([region[0] for region in regions]) + positions(len(regions), self.d)
        heads = self.block(f"{first}.WSI_encoder", heads, np.ones(len(heads), dtype=bool))
        for region, head in zip(regions, heads, strict=True):
            region[0] = head
        second = f"{CORE}model.encoder.layer.1.region_encoder"
        regions = [self.block(second, r + places, s) for r, s in zip(regions, seen, strict=True)]
        return np.stack([self.pool(self.norm(f"{CORE}model.encoder.norm", region)) for region in regions])

    def regions(self, x):
        token = self.w[f"{CORE}model.encoder.layer.0.global_token"].reshape(1, -1)
        regions, seen = [], []
        for start in range(0, len(x), self.size - 1):
            tiles = x[start : start + self.size - 1]
            spare = self.size - 1 - len(tiles)
            regions.append(np.concatenate([tiles, np.zeros((spare, self.d)), token]))
            seen.append(np.array([True] * len(tiles) + [False] * spare + [True]))
        return regions, seen

    def pool(self, region):
        name = f"{CORE}model.encoder.pooler"
        inner = self.linear(f"{name}.attentive_pooling.lin_proj", region)
        scores = np.tanh(self.linear(f"{name}.attentive_pooling.v", inner))[:, 0]
        return np.tanh(self.linear(f"{name}.dense", softmax(scores) @ region))

    def prototype_rows(self, tiles):
        if self.prototypes == 1:
            return [0]
        step = np.float32(tiles - 1) / np.float32(self.prototypes - 1)
        rows = []
        for place in range(self.prototypes):
            if place < self.prototypes // 2:
                rows.append(int(np.float32(float(step) * place)))
            else:
                rows.append(int(np.float32(tiles - 1 - float(step) * (self.prototypes - 1 - place))))
        return rows

    def log_probs(self, features, ids):
        memory = self.encode(features)
        x = self.w[f"{CORE}model.tgt_embed.0.lut.weight"][ids] * math.sqrt(self.d)
        x = x + positions(len(ids), self.d)
        x = x + self.recall(x)
        real = np.asarray(ids) > 0
        real[0] = True
        seen = np.tril(np.ones((len(ids), len(ids)), dtype=bool)) & real
        layer = 0
        while f"{CORE}model.decoder.layers.{layer}.sublayer.0.norm.a_2" in self.w:
            name = f"{CORE}model.decoder.layers.{layer}"
            inner = self.norm(f"{name}.sublayer.0.norm", x)
            x = x + self.attend(f"{name}.self_attn", inner, inner, seen)
            x = x + self.attend(f"{name}.src_attn", self.norm(f"{name}.sublayer.1.norm", x), memory)
            x = x + self.feed_forward(f"{name}.feed_forward", self.norm(f"{name}.sublayer.2.norm", x))
            layer += 1
        logits = self.linear(f"{CORE}logit", self.norm(f"{CORE}model.decoder.norm", x))
        logits -= logits.max(axis=-1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))

    def beam(self, features, beams, length):
        """Search as published: always to the limit, every step recomputed from scratch."""
        live = [([], 0.0)]
        done = []
        for place in range(length):
            longer = []
            for words, score in live:
                row = self.log_probs(features, [0, *words])[-1]
                longer += [([*words, word], score + value) for word, value in enumerate(row)]
            longer.sort(key=lambda beam: -beam[1])
            live = []
            for words, score in longer[:beams]:
                ends = words[-1] == 0 or place == length - 1
                if ends:
                    done.append((words, score))
                live.append((words, score - 1000.0 * ends))
        words, score = max(done, key=lambda beam: beam[1])
        return (words[: words.index(0)] if 0 in words else words), score


def softmax(scores):
    raised = np.exp(scores - scores.max())
    return raised / raised.sum()


def positions(count, width):
    places = np.arange(count)[:, None]
    rates = np.exp(np.arange(0, width, 2) * -(math.log(10000.0) / width))
    code = np.zeros((count, width))
    code[:, 0::2], code[:, 1::2] = np.sin(places * rates), np.cos(places * rates)
    return code
