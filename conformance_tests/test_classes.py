"""What the classes and the table of operations say about tests, against the tests that are run."""

import contextlib
import io
from collections.abc import Iterator

import hypothesis
import pytest

from veil_conformance import runner
from veil_conformance.classes import CLASSES, Class
from veil_conformance.protocol import OPERATIONS
from veil_conformance.verdicts import UNMARKED, Result, class_verdict
from veil_reference import implementation

hypothesis.settings.register_profile("fewest", hypothesis.settings.get_profile("mutants"), max_examples=10)


@pytest.fixture(scope="module")
def results() -> list[Result]:
    """Return what became of every test with the reference, and the operations that each asked for."""
    suite = runner.Suite(implementation())
    with contextlib.redirect_stdout(io.StringIO()):
        runner.run(suite, "fewest")
    return suite.results


def shown(each: Class, requirement: str) -> frozenset[str]:
    """Return the operations of a class by which it fulfils a requirement, as the table of operations says."""
    return frozenset(
        o for o in each.operations if o in OPERATIONS and requirement in OPERATIONS[o].requirements
    )


def problems(each: Class, results: list[Result]) -> Iterator[str]:
    """Yield what a class lacks, has in vain, or asks for in a test that is not its own."""
    used: set[str] = set()
    for result in results:
        if result.requirement not in each.requirements:
            continue
        if result.operations <= each.operations:
            used |= result.operations
        elif result.operations & shown(each, result.requirement):
            yield f"{result.requirement}: a test also asks for {result.operations - each.operations}"
    yield from (f"{operation}: no test asks for it" for operation in each.operations - used)
    if class_verdict(each, each.operations, results) != "PASS":
        yield "the reference does not pass"


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_is_tested_by_its_own_operations(results: list[Result], name: str) -> None:
    assert list(problems(CLASSES[name], results)) == []


@pytest.mark.parametrize(
    ("requirements", "operations", "said"),
    [
        ("ACC-R16", "document_cost divide", "divide: no test asks for it"),
        ("ACC-R16 ACC-R17", "document_cost", "the reference does not pass"),
        ("NMX-R2", "sample", "NMX-R2: a test also asks for frozenset({'seeded_tape'})"),
    ],
)
def test_a_class_that_does_not_fit_its_tests_is_noticed(
    results: list[Result], requirements: str, operations: str, said: str
) -> None:
    wrong = Class("X", "", tuple(requirements.split()), frozenset(operations.split()))
    assert said in list(problems(wrong, results))


@pytest.mark.parametrize("operation", [name for name in OPERATIONS if name != "word"])
def test_an_operation_is_tested_by_the_requirements_that_its_line_names(
    results: list[Result], operation: str
) -> None:
    tested = {result.requirement for result in results if operation in result.operations}
    named = set(OPERATIONS[operation].requirements)
    assert named and named <= tested


def test_every_requirement_stands_in_the_table_of_operations(results: list[Result]) -> None:
    named = {requirement for operation in OPERATIONS.values() for requirement in operation.requirements}
    assert named == {result.requirement for result in results} - {UNMARKED}
