"""REG2025's score: the published formula and terms, exchangeable parts, and the result's label."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.evaluation import RegParts, register_embedding, register_entities
from histgen_lib.evaluation.parts import HashedNgrams, LexicalEntities, embedding_part
from histgen_lib.evaluation.reg2025 import REG2025_NAMES, reg2025_scores, reg_bleu4, reg_rouge

BREAST = "Breast, core needle biopsy:\n  Fibroadenoma\n  - Granulomas: not identified"
OTHER = "Colon, endoscopic biopsy:\n  Adenocarcinoma\n  - Grade: 3"


def test_the_score_is_the_weighted_sum_of_its_four_terms() -> None:
    scores = reg2025_scores([BREAST, BREAST], [BREAST, OTHER], RegParts())
    rouge, bleu4, entities, embedding = scores[:, 1:].T
    np.testing.assert_allclose(scores[:, 0], 0.15 * (rouge + bleu4) + 0.4 * entities + 0.3 * embedding)
    assert len(REG2025_NAMES) == 5


def test_an_equal_report_scores_one_and_a_blank_one_zero() -> None:
    scores = reg2025_scores([BREAST, BREAST, ""], [BREAST, "", ""], RegParts())
    np.testing.assert_allclose(scores[:, 0], [1, 0, 0], atol=1e-12)


def test_rouge_is_the_f1_of_lower_case_words() -> None:
    assert reg_rouge("The Cat sat down", "the cat SAT") == pytest.approx(2 * 1 * 0.75 / 1.75)
    assert reg_rouge("a", "b") == 0


def test_bleu4_is_four_gram_precision_without_brevity_penalty() -> None:
    assert reg_bleu4("a b c d e f g h", "a b c d") == 1
    assert reg_bleu4("a b c d e", "a b c d x") == 0.5
    assert reg_bleu4("a b c", "a b c") == 0


def test_bleu4_counts_repeated_four_grams_as_the_published_program_does() -> None:
    assert reg_bleu4("a a a a a", "a a a a a") == 2


def test_lexical_entities_hold_fields_and_phrases_but_no_stop_words() -> None:
    found = LexicalEntities().entities(BREAST)
    assert {"granulomas: not identified", "core needle biopsy", "needle biopsy", "fibroadenoma"} <= found
    assert not found & {"not", "core needle biopsy fibroadenoma"}
    assert LexicalEntities().entities("") == frozenset()


def test_hashed_vectors_are_the_same_in_every_process_and_closer_for_similar_texts() -> None:
    same, near, far = HashedNgrams().embed(["invasive carcinoma", "invasive carcinomas", "chronic gastritis"])
    assert same.sum() == pytest.approx(HashedNgrams().embed(["Invasive  CARCINOMA."])[0].sum())
    assert np.flatnonzero(HashedNgrams().embed(["mm"])[0]).tolist() == [1506, 2800]
    assert same @ near > same @ far


class _Constant:
    rescale_from = 0.5

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([[1.0, {"a": 0.0, "b": 0.75, "c": 10.0}[text]] for text in texts])

    def entities(self, text: str) -> frozenset[str]:
        return frozenset(text)


def test_a_registered_part_is_used_and_its_cosine_rescaled_as_in_the_challenge() -> None:
    register_entities("letters", lambda _: _Constant())
    register_embedding("constant", lambda argument: _Constant())
    parts = RegParts("letters", "constant:x")
    scores = reg2025_scores(["a", "a"], ["b", "c"], parts)
    assert scores[:, 4] == pytest.approx([(0.8 - 0.5) / 0.5, 1 / np.sqrt(101)])
    assert scores[:, 3].tolist() == [0, 0]


@pytest.mark.parametrize("parts", [RegParts(entities="nothing"), RegParts(embedding="nothing:x")])
def test_an_unknown_part_is_refused_with_the_known_ones(parts: RegParts) -> None:
    with pytest.raises(InvalidInputError, match="Known parts: ") as caught:
        reg2025_scores(["a"], ["a"], parts)
    assert caught.value.code == "evaluation-part-unknown"


@pytest.mark.parametrize(
    "parts",
    [
        RegParts(entities="spacy:en_core_sci_lg"),
        RegParts(embedding="transformers:/nowhere"),
        RegParts(embedding="sentence-transformers:/nowhere"),
    ],
)
def test_a_part_that_is_not_installed_is_named_and_nothing_is_downloaded(
    parts: RegParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("spacy", "transformers", "sentence_transformers"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(FatalError) as caught:
        reg2025_scores(["a"], ["a"], parts)
    assert caught.value.code == "evaluation-part-missing"


def test_a_missing_model_folder_or_pipeline_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> None:
        raise OSError(f"no pipeline {name}")

    monkeypatch.setitem(sys.modules, "spacy", SimpleNamespace(load=load))
    monkeypatch.setitem(sys.modules, "sentence_transformers", SimpleNamespace())
    for parts in (RegParts(entities="spacy:none"), RegParts(embedding="sentence-transformers:/nowhere")):
        with pytest.raises(FatalError) as caught:
            reg2025_scores(["a"], ["a"], parts)
        assert caught.value.code == "evaluation-part-missing"


def test_installed_parts_are_used_as_in_the_challenge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entities = [SimpleNamespace(text="Fibroadenoma"), SimpleNamespace(text="G2")]
    pipeline = SimpleNamespace(load=lambda _: lambda text: SimpleNamespace(ents=entities))
    encoder = SimpleNamespace(encode=lambda texts, show_progress_bar: [[1.0, 0.0]] * len(texts))
    library = SimpleNamespace(SentenceTransformer=lambda path, local_files_only: encoder)
    monkeypatch.setitem(sys.modules, "spacy", pipeline)
    monkeypatch.setitem(sys.modules, "sentence_transformers", library)
    parts = RegParts("spacy:en_core_sci_lg", f"sentence-transformers:{tmp_path}")
    assert reg2025_scores(["a"], ["b"], parts)[0, 3:].tolist() == [1, 1]


def test_a_transformers_part_averages_the_last_hidden_states_of_a_local_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    loads: list[dict[str, object]] = []

    class Loader:
        @staticmethod
        def from_pretrained(path: str, **options: object) -> Loader:
            loads.append({"path": path, **options})
            return Loader()

        def eval(self) -> Loader:
            return self

        def __call__(self, *texts: str, **options: object) -> object:
            return SimpleNamespace(last_hidden_state=states) if not texts else {}

    library = SimpleNamespace(AutoTokenizer=Loader, AutoModel=Loader)
    monkeypatch.setitem(sys.modules, "transformers", library)
    part = embedding_part(f"transformers:{tmp_path}")
    assert part.embed(["a", "b"]).tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert part.rescale_from == 0.5
    assert loads == [{"path": str(tmp_path), "local_files_only": True}] * 2


def test_only_the_challenges_own_parts_are_comparable() -> None:
    assert not RegParts().comparable
    assert not RegParts(entities="spacy:en_core_sci_lg").comparable
    assert RegParts("spacy:en_core_sci_lg", "transformers:/models/biobert-v1.1/").comparable
