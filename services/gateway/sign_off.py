"""POST /signatures and /withdrawals: what a person has said about a report, read from requests."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, ValidationError

from histgen_lib.catalogue.keys import ReportOwner
from histgen_lib.catalogue.sign_off import Wish, Withdrawn
from histgen_lib.catalogue.signing import Signature
from histgen_lib.errors import InvalidInputError
from histgen_lib.runtime.web.bodies import Body, Text, invalid_request, json_object

MOST_BYTES = 512 << 10
"""Of a request: a text of the longest kind, each of its characters escaped."""

Label = Annotated[str, Field(max_length=64, pattern=r"^[^\x00-\x1f\x7f]*$")]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

_SIGNATURE = (
    "The fields are slide_id or case_id, and report_digest, text, stain, site, synthetic and reinstate: "
    '{"slide_id": "S-17", "text": "Breast, biopsy: …"}.'
)
_WITHDRAWAL = 'The fields are slide_id or case_id, and reason: {"case_id": "C-4"}.'


class _OfOwner(Body):
    slide_id: Text | None = None
    case_id: Text | None = None

    def owner(self, hint: str) -> ReportOwner:
        """Return whose report it is. Raises InvalidInputError("request-invalid")."""
        if (self.slide_id is None) == (self.case_id is None):
            raise InvalidInputError(
                "request-invalid", "The request must name either a slide or a case.", hint=hint
            )
        return ReportOwner(str(self.slide_id or self.case_id), is_case=self.case_id is not None)


class _SignatureBody(_OfOwner):
    report_digest: Digest | None = None
    text: str | None = None
    stain: Label = ""
    site: Label = ""
    synthetic: bool = False
    reinstate: bool = False


class _WithdrawalBody(_OfOwner):
    reason: Annotated[str, Field(max_length=1000)] = ""


def read_signature(body: bytes, by: str) -> Wish:
    """Read the body of POST /signatures.

    Raises InvalidInputError: "request-unreadable", "request-invalid".
    """
    try:
        found = _SignatureBody.model_validate(json_object(body))
    except ValidationError as error:
        raise invalid_request(error, _SIGNATURE) from None
    return Wish(
        found.owner(_SIGNATURE),
        by,
        found.report_digest or "",
        found.text,
        found.stain.strip(),
        found.site.strip(),
        found.synthetic,
        found.reinstate,
    )


def read_withdrawal(body: bytes) -> tuple[ReportOwner, str]:
    """Read the body of POST /withdrawals: whose reports, and why. Raises as `read_signature`."""
    try:
        found = _WithdrawalBody.model_validate(json_object(body))
    except ValidationError as error:
        raise invalid_request(error, _WITHDRAWAL) from None
    return found.owner(_WITHDRAWAL), found.reason.strip()


def signature_json(signature: Signature) -> dict[str, Any]:
    """Return the answer to POST /signatures; the text is known to whoever signed it."""
    return {
        "owner": signature.owner.name,
        "report_digest": signature.report_digest,
        "signed_key": signature.key,
        "by": signature.by,
        "at": signature.at.isoformat(),
    }


def withdrawal_json(done: Withdrawn) -> dict[str, Any]:
    """Return the answer to POST /withdrawals."""
    return {
        "owner": done.withdrawal.owner.name,
        "withdrawn_key": done.withdrawal.key,
        "by": done.withdrawal.by,
        "at": done.withdrawal.at.isoformat(),
        "citing": [{"owner": owner.name, "report_digest": digest} for owner, digest in done.citing],
    }
