"""The lab of the search tests, with six cases."""

from __future__ import annotations

import pytest
from search_lab import SearchLab


@pytest.fixture
def lab() -> SearchLab:
    made = SearchLab()
    made.case(
        "b1", ["breast", "tumour", "stroma"], organ="Breast", stain="H&E", date="2024-01-10", signed=True
    )
    made.case("b2", ["breast", "glands"], organ="Breast", stain="HER2", site="North", date="2024-02-10")
    made.case("c1", ["colon", "necrosis", "glands"], organ="Colon", date="2024-03-10", synthetic=True)
    made.case("c2", ["colon", "tumour", "mitoses"], organ="Colon", date="2024-04-10")
    made.case("k1", ["breast", "mitoses"], owner="case/K", organ="Breast", date="2024-05-10")
    made.case("k2", ["breast", "necrosis"], owner="case/K", organ="Breast", date="2024-05-10")
    return made
