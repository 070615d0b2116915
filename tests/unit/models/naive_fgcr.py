"""The published FGCR written out in NumPy, float64: one slide, one head, one word at a time.

Follows the measured description of the authors' code, shares nothing with histgen_lib, and reads weights by
the authors' names. Slow and plain on purpose: it is what the fast network is compared with.
"""

from __future__ import annotations

import math

import numpy as np


def random_state_dict(seed, *, patch_dim, prompt_num, dim, depth, heads, mlp_dim, dim_head, text_layers,
                      text_ff, vocab_size, word_dim=7, positions=40, **_):  # fmt: skip
    """Weights under the authors' names, unread ones and aliases included."""
    rng = np.random.default_rng(seed)
    state = {}

    def normal(name, *shape, mean=0.0, spread=1.0):
        state[name] = rng.normal(mean, spread, shape).astype(np.float32)

    def linear(name, out, into):
        normal(f"{name}.weight", out, into, spread=1.5 / math.sqrt(into))
        normal(f"{name}.bias", out, spread=0.2)

    def norm(name):
        normal(f"{name}.weight", dim, mean=1.0, spread=0.2)
        normal(f"{name}.bias", dim, spread=0.2)

    def attention(name):
        normal(f"{name}.in_proj_weight", 3 * dim, dim, spread=1.5 / math.sqrt(dim))
        normal(f"{name}.in_proj_bias", 3 * dim, spread=0.2)
        linear(f"{name}.out_proj", dim, dim)

    for token in ("img_cls_token", "kernel_token", "text_cls_token"):
        normal(token, 1, 1, dim)
    state["position_ids"] = np.arange(positions)[None]
    linear("to_patch_embedding", dim, patch_dim)
    for layer in range(depth):
        name = f"kt.layers.{layer}"
        norm(f"{name}.0")
        normal(f"{name}.1.to_qkv.weight", 3 * heads * dim_head, dim, spread=1.5 / math.sqrt(dim))
        if dim_head != dim:
            linear(f"{name}.1.to_out.0", dim, heads * dim_head)
        norm(f"{name}.2.norm")
        linear(f"{name}.2.fn.net.0", mlp_dim, dim)
        linear(f"{name}.2.fn.net.3", dim, mlp_dim)
    normal("text_position_embeddings.weight", positions, dim)
    normal("text_embedding.weight", vocab_size, word_dim)
    linear("text_linear", dim, word_dim)
    norm("LayerNorm")
    for layer in range(text_layers):
        name = f"text_encoder.layers.{layer}"
        attention(f"{name}.self_attn")
        linear(f"{name}.linear1", text_ff, dim)
        linear(f"{name}.linear2", dim, text_ff)
        norm(f"{name}.norm1")
        norm(f"{name}.norm2")
    norm("text_encoder.norm")
    linear("text_head.transform.dense", dim, dim)
    norm("text_head.transform.LayerNorm")
    linear("text_head.decoder", vocab_size, dim)
    state["text_head.bias"] = state["text_head.decoder.bias"]
    attention("local_atten_layer")
    norm("mlp_head.0")
    linear("mlp_head.1", prompt_num, dim)
    return state


def random_case(seed, *, patch_dim, prompt_num, num_kernel, vocab_size, batch=3, tiles=17, words=11, **_):
    """Make a batch in the arrays of the authors' loader: the last slide is full, the others are padded."""
    rng = np.random.default_rng(seed)

    def prefixes(length, least):
        counts = [*rng.integers(least, length + 1, batch - 1), length]
        return np.stack([np.arange(length) < count for count in counts])[..., None].astype(np.int32)

    node_mask, anchor_mask, text_mask = prefixes(tiles, 2), prefixes(num_kernel, 1), prefixes(words, 1)
    soft = rng.random((batch, num_kernel, tiles)).astype(np.float32)
    return {
        "feats": rng.normal(size=(batch, tiles, patch_dim)).astype(np.float32) * node_mask,
        "soft_mask": (soft * anchor_mask * node_mask.transpose(0, 2, 1)).astype(np.float32),
        "text": rng.integers(1, vocab_size, (batch, words, 1)) * text_mask,
        "prompt": rng.integers(0, prompt_num, (batch, words, 1)),
        "node_mask": node_mask,
        "anchor_mask": anchor_mask,
        "text_mask": text_mask,
        "prompt_mask": prefixes(words, 1),
        "prompt_vocab_ids": rng.integers(1, vocab_size, prompt_num),
        "mlm_uniform": rng.random((batch, words, 1)).astype(np.float32),
    }


class NaiveFgcr:
    def __init__(self, state, *, heads, dim_head, text_heads, depth, text_layers, **_):
        self.w = {name: np.asarray(value, dtype=np.float64) for name, value in state.items()}
        self.heads, self.dim_head, self.text_heads = heads, dim_head, text_heads
        self.depth, self.text_layers = depth, text_layers

    def linear(self, name, x):
        return x @ self.w[f"{name}.weight"].T + self.w.get(f"{name}.bias", 0.0)

    def norm(self, name, x):
        spread = np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
        return (x - x.mean(axis=-1, keepdims=True)) / spread * self.w[f"{name}.weight"] + self.w[
            f"{name}.bias"
        ]

    def run(self, case):
        slides = [self.slide(case, row) for row in range(len(case["feats"]))]
        texts = [self.report(case, row) for row in range(len(case["feats"]))]
        prompts = self.encode(self.embedded(case["prompt_vocab_ids"], with_class=False))
        found = {
            "img_cls": np.stack([whole for _, whole in slides]),
            "anchor_ebd": np.stack([layers[-1] for layers, _ in slides]),
            "text_cls": np.stack([np.tanh(read[0]) for _, read in texts]),
            "t_feat": np.stack([entered for entered, _ in texts]),
            "text_ebd": np.stack([read[1:] for _, read in texts]),
            "prompt_ebd": np.stack([prompts] * len(slides)),
        }
        for layer in range(self.depth):
            found[f"anchors_layer{layer}"] = np.stack([layers[layer] for layers, _ in slides])
        return found

    def slide(self, case, row):
        soft, real = case["soft_mask"][row].astype(np.float64), case["anchor_mask"][row, :, 0] > 0
        tiles_real = case["node_mask"][row, :, 0] > 0
        tiles = self.linear("to_patch_embedding", case["feats"][row].astype(np.float64))
        anchors = np.repeat(self.w["kernel_token"][0], len(soft), axis=0)
        whole = self.w["img_cls_token"][0]
        layers = []
        for layer in range(self.depth):
            name = f"kt.layers.{layer}"
            tiles, anchors, whole = (self.norm(f"{name}.0", x) for x in (tiles, anchors, whole))
            open_pairs = np.outer(tiles_real, real)
            heard_tiles = self.kernel_attend(name, tiles, anchors, open_pairs, soft.T)
            heard_anchors = self.kernel_attend(name, anchors, tiles, open_pairs.T, soft)
            heard_whole = self.kernel_attend(name, whole, anchors, open_pairs[:1], 1.0)
            streams = (tiles + heard_tiles, anchors + heard_anchors, whole + heard_whole)
            tiles, anchors, whole = (x + self.feed(f"{name}.2", x) for x in streams)
            layers.append(np.where(real[:, None], anchors, 0.0))
        return layers, np.tanh(whole[0])

    def kernel_attend(self, name, asking, asked, open_pairs, soft):
        inner = self.heads * self.dim_head
        weight = self.w[f"{name}.1.to_qkv.weight"]
        q, k, v = (
            asking @ weight[:inner].T,
            asked @ weight[inner : 2 * inner].T,
            asked @ weight[2 * inner :].T,
        )
        out = np.zeros_like(q)
        for head in range(self.heads):
            part = slice(head * self.dim_head, (head + 1) * self.dim_head)
            scores = np.where(open_pairs, q[:, part] @ k[:, part].T / math.sqrt(self.dim_head), -1e9)
            out[:, part] = (softmax(scores) * soft) @ v[:, part]
        return self.linear(f"{name}.1.to_out.0", out) if f"{name}.1.to_out.0.weight" in self.w else out

    def feed(self, name, x):
        inner = self.linear(f"{name}.fn.net.0", self.norm(f"{name}.norm", x))
        gelu = inner * 0.5 * (1 + np.vectorize(math.erf)(inner / math.sqrt(2)))
        return self.linear(f"{name}.fn.net.3", gelu)

    def report(self, case, row):
        entered = self.embedded(case["text"][row, :, 0])
        seen = np.concatenate([[True], case["text_mask"][row, :, 0] > 0])
        return entered, self.encode(entered, seen)

    def embedded(self, ids, with_class=True):
        words = self.linear("text_linear", self.w["text_embedding.weight"][ids])
        words = words + self.w["text_position_embeddings.weight"][: len(ids)]
        return self.norm(
            "LayerNorm", np.concatenate([self.w["text_cls_token"][0], words]) if with_class else words
        )

    def encode(self, x, seen=None):
        seen = np.ones(len(x), dtype=bool) if seen is None else seen
        for layer in range(self.text_layers):
            name = f"text_encoder.layers.{layer}"
            x = self.norm(f"{name}.norm1", x + self.attend(f"{name}.self_attn", x, x, seen, self.text_heads))
            inner = np.maximum(self.linear(f"{name}.linear1", x), 0)
            x = self.norm(f"{name}.norm2", x + self.linear(f"{name}.linear2", inner))
        return self.norm("text_encoder.norm", x)

    def attend(self, name, asking, asked, seen, heads):
        d = asking.shape[1]
        weight, bias = self.w[f"{name}.in_proj_weight"], self.w[f"{name}.in_proj_bias"]
        q, k, v = (
            x @ weight[place * d : (place + 1) * d].T + bias[place * d : (place + 1) * d]
            for place, x in enumerate((asking, asked, asked))
        )
        out, width = np.zeros_like(q), d // heads
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            scores = np.where(seen, q[:, part] @ k[:, part].T / math.sqrt(width), -np.inf)
            out[:, part] = softmax(scores) @ v[:, part]
        return self.linear(f"{name}.out_proj", out)

    def losses(self, case):
        run = self.run(case)
        rows = range(len(case["feats"]))
        said = [set(case["prompt"][row, :, 0][case["prompt_mask"][row, :, 0] > 0]) for row in rows]
        images, texts = (
            self.linear("mlp_head.1", self.norm("mlp_head.0", run[n])) for n in ("img_cls", "text_cls")
        )
        found = {
            "pc_image": np.mean([presence_loss(softmax(images[row]), said[row]) for row in rows]),
            "pc_text": np.mean([presence_loss(softmax(texts[row]), said[row]) for row in rows]),
            "apa": np.mean([self.anchor_loss(case, run, row, said[row]) for row in rows]),
            "wra": 0.2 * pair_loss(images @ texts.T / images.shape[1]),
            "cta_patch": 0.01 * self.identity_loss(case, run, of_words=False),
            "cta_text": 0.01 * self.identity_loss(case, run, of_words=True),
            "mlm": 0.1 * self.word_loss(case, run),
        }
        return found | {"total": sum(found.values())}

    def anchor_loss(self, case, run, row, said):
        real = case["anchor_mask"][row, :, 0] > 0
        alike = run["anchor_ebd"][row][real] @ run["prompt_ebd"][row].T / run["anchor_ebd"].shape[2] / 10
        return presence_loss((softmax(alike.T).T / (1 + np.exp(-alike))).sum(axis=0), said)

    def identity_loss(self, case, run, *, of_words):
        own, other = ("text_ebd", "anchor_ebd") if of_words else ("anchor_ebd", "text_ebd")
        masks = {"text_ebd": case["text_mask"][..., 0] > 0, "anchor_ebd": case["anchor_mask"][..., 0] > 0}
        by_row, by_column = [], []
        for row in range(len(case["feats"])):
            heard = self.attend(
                "local_atten_layer", run[own][row], run[other][row], masks[other][row], self.heads
            )
            alike = run[own][row] @ heard.T / heard.shape[1]
            by_row += list(-log_softmax(alike).diagonal()[masks[own][row]])
            by_column += list(-log_softmax(alike.T).diagonal()[masks[own][row]])
        return np.mean(by_row) + np.mean(by_column)

    def word_loss(self, case, run):
        losses = []
        for row in range(len(case["feats"])):
            real = case["text_mask"][row, :, 0] > 0
            seen = np.concatenate([[True], real & (case["mlm_uniform"][row, :, 0] < 0.6)])
            read = self.encode(run["t_feat"][row], seen)[1:]
            inner = np.maximum(self.linear("text_head.transform.dense", read), 0)
            scores = self.linear("text_head.decoder", self.norm("text_head.transform.LayerNorm", inner))
            guesses = log_softmax(1 / (1 + np.exp(-scores)))
            losses += [-guesses[place, case["text"][row, place, 0]] for place in np.flatnonzero(real)]
        return np.mean(losses)


def presence_loss(shares, said):
    wanted = np.isin(np.arange(len(shares)), list(said))
    return -np.mean(np.log(np.where(wanted, shares, 1 - shares)))


def pair_loss(scores):
    return -np.mean(log_softmax(scores).diagonal()) - np.mean(log_softmax(scores.T).diagonal())


def softmax(x):
    weights = np.exp(x - x.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def log_softmax(x):
    shifted = x - x.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
