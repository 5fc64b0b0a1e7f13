"""The OpenAPI document against its server: every answer to valid and invalid requests is declared."""

from collections import Counter
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from oracle import MINUTE
from serving import kept, serving
from tapes import T0

from .test_sdk import tape

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
"""Without the check that valid requests are accepted: the document cannot say that `from` and `minutes` exclude
each other."""
EXAMPLES = 5
"""Requests per operation and kind."""


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Iterator[schemathesis.BaseSchema]:
    """Yield the document of a running server with prints."""
    with kept(tmp_path_factory.mktemp("fuzz"), T0 + 20 * MINUTE) as server:
        server.take(tape())
        with serving(server.app) as url:
            # Streams never end; test_streams.py tests them.
            document = schemathesis.openapi.from_url(f"{url}/openapi.json").exclude(path_regex="/stream$")
            document.config.headers = {"X-Api-Key": server.keys["alpha"]}
            yield document


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_every_operation_conforms_to_the_document(
    document: schemathesis.BaseSchema, mode: GenerationMode
) -> None:
    """Valid and invalid requests about a symbol with prints."""
    troubles, positive = [], mode == GenerationMode.POSITIVE
    for found in document.get_all_operations():
        operation = found.ok()
        takes = [parameter.name for parameter in operation.iter_parameters()]
        if not takes and not positive:
            continue
        statuses, trouble = ask(
            operation, mode, {"symbol": "SPY"} if positive and "symbol" in takes else None
        )
        if trouble is None and positive and 200 not in statuses:
            trouble = f"no request was answered: {statuses}"
        if trouble is not None:
            troubles.append(f"{operation.label}: {trouble}")
    assert not troubles, "\n\n".join(troubles)


def ask(
    operation: schemathesis.APIOperation, mode: GenerationMode, path: dict[str, str] | None
) -> tuple[Counter[int], str | None]:
    """Return the statuses of an operation's answers, and the faults of one of them."""
    statuses: Counter[int] = Counter()

    # Deterministic requests.
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(operation.as_strategy(generation_mode=mode, path_parameters=path))
    def one(case: schemathesis.Case) -> None:
        response = case.call(timeout=10)
        statuses[response.status_code] += 1
        case.validate_response(response, checks=CHECKS)

    try:
        one()
    except BaseExceptionGroup as failures:
        return statuses, str([str(failure) for failure in failures.exceptions])
    return statuses, None
