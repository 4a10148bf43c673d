"""Answers as MLflow traces: its own screens filter them by score, and compare two runs clip by clip."""

from __future__ import annotations

import json
import time
import uuid
from base64 import b64encode
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

MOST_TRACES = 100
"""Answers of a run that become traces; of more, the first ones. Each takes 20 to 30 ms."""
_PREVIEW = 1000  # characters


def log_answers(uri: str, experiment_id: str, run_id: str, answers: Iterable[Mapping[str, Any]]) -> int:
    """Log one trace per answer under a run, in place of those that it has; return how many.

    Args:
        uri: Of the database.
        experiment_id: The run's.
        run_id: The run that answered.
        answers: ``name``, ``target``, ``openset`` and ``completion``; any number or truth value besides is feedback.
    """
    from mlflow.tracing.client import TracingClient

    client = TracingClient(uri)
    _delete(client, experiment_id, run_id)
    started = time.time_ns()
    spans = []
    for place, answer in enumerate(islice(answers, MOST_TRACES)):
        # MLflow lists the newest first: a millisecond less for each keeps them in their order.
        at = started - place * 1_000_000
        info = _trace_info(experiment_id, run_id, answer, at)
        client.start_trace(info)
        spans.append(_span(info.trace_id, answer, at))  # later, its place would be shown as the time that it took
    if spans:
        client.store.log_spans(experiment_id, spans)  # in one transaction
    return len(spans)


def _delete(client: Any, experiment_id: str, run_id: str) -> None:
    """Delete a run's traces, so that an evaluation that is repeated does not double them."""
    from mlflow.tracing.constant import TraceMetadataKey

    condition = f"metadata.`{TraceMetadataKey.SOURCE_RUN}` = '{run_id}'"
    while traces := client.search_traces(
        [experiment_id], filter_string=condition, max_results=100, include_spans=False
    ):
        found = [trace.info.trace_id for trace in traces]
        client.delete_traces(experiment_id, trace_ids=found)


def _trace_info(experiment_id: str, run_id: str, answer: Mapping[str, Any], started: int) -> Any:
    from mlflow.entities import AssessmentSource, Expectation, Feedback, TraceInfo, TraceLocation, TraceState
    from mlflow.tracing.constant import TraceMetadataKey, TraceTagKey

    source, trace_id = AssessmentSource("CODE", "affectgpt-r1"), f"tr-{uuid.uuid4().hex}"
    scores = {name: value for name, value in answer.items() if isinstance(value, bool | int | float)}
    return TraceInfo(
        trace_id=trace_id,
        trace_location=TraceLocation.from_experiment_id(experiment_id),
        request_time=started // 1_000_000,
        state=TraceState.OK,
        request_preview=str(answer["name"])[:_PREVIEW],
        response_preview=str(answer["completion"])[:_PREVIEW],
        execution_duration=0,
        trace_metadata={TraceMetadataKey.SOURCE_RUN: run_id},
        tags={TraceTagKey.TRACE_NAME: str(answer["name"])[:_PREVIEW]},
        assessments=[
            Expectation("target", value=", ".join(answer["target"]), source=source, trace_id=trace_id),
            *(Feedback(name, value=value, source=source, trace_id=trace_id) for name, value in scores.items()),
        ],
    )


def _span(trace_id: str, answer: Mapping[str, Any], started: int) -> Any:
    from mlflow.entities.span import Span, SpanType
    from mlflow.tracing.constant import SpanAttributeKey

    attributes = {
        SpanAttributeKey.REQUEST_ID: trace_id,
        SpanAttributeKey.SPAN_TYPE: SpanType.LLM,
        # The clip alone: MLflow lines two runs up by what they were asked.
        SpanAttributeKey.INPUTS: {"clip": answer["name"]},
        SpanAttributeKey.OUTPUTS: {"labels": list(answer["openset"]), "completion": answer["completion"]},
    }
    number = bytes.fromhex(trace_id.removeprefix("tr-"))
    return Span.from_dict(
        {
            "trace_id": b64encode(number).decode(),
            "span_id": b64encode(number[:8]).decode(),
            "parent_span_id": None,
            "name": "answer",
            "start_time_unix_nano": started,
            "end_time_unix_nano": started,
            "events": [],
            "status": {"code": "STATUS_CODE_OK", "message": ""},
            "attributes": {key: json.dumps(value, ensure_ascii=False) for key, value in attributes.items()},
        }
    )
