import datetime

from google.protobuf import any_pb2 as _any_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LongInput(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LONG_INPUT_UNSPECIFIED: _ClassVar[LongInput]
    LONG_INPUT_ERROR: _ClassVar[LongInput]
    LONG_INPUT_TRUNCATE: _ClassVar[LongInput]
    LONG_INPUT_CHUNK: _ClassVar[LongInput]

class EarlyStopping(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EARLY_STOPPING_UNSPECIFIED: _ClassVar[EarlyStopping]
    EARLY_STOPPING_HEURISTIC: _ClassVar[EarlyStopping]
    EARLY_STOPPING_FIRST: _ClassVar[EarlyStopping]
    EARLY_STOPPING_NEVER: _ClassVar[EarlyStopping]

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_REASON_UNSPECIFIED: _ClassVar[FinishReason]
    FINISH_REASON_STOP: _ClassVar[FinishReason]
    FINISH_REASON_LENGTH: _ClassVar[FinishReason]

class Task(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TASK_UNSPECIFIED: _ClassVar[Task]
    TASK_GENERATION: _ClassVar[Task]
    TASK_CLASSIFICATION: _ClassVar[Task]
    TASK_SCORING: _ClassVar[Task]
LONG_INPUT_UNSPECIFIED: LongInput
LONG_INPUT_ERROR: LongInput
LONG_INPUT_TRUNCATE: LongInput
LONG_INPUT_CHUNK: LongInput
EARLY_STOPPING_UNSPECIFIED: EarlyStopping
EARLY_STOPPING_HEURISTIC: EarlyStopping
EARLY_STOPPING_FIRST: EarlyStopping
EARLY_STOPPING_NEVER: EarlyStopping
FINISH_REASON_UNSPECIFIED: FinishReason
FINISH_REASON_STOP: FinishReason
FINISH_REASON_LENGTH: FinishReason
TASK_UNSPECIFIED: Task
TASK_GENERATION: Task
TASK_CLASSIFICATION: Task
TASK_SCORING: Task

class TokenIds(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, ids: _Optional[_Iterable[int]] = ...) -> None: ...

class TokenSequences(_message.Message):
    __slots__ = ("sequences",)
    SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    sequences: _containers.RepeatedCompositeFieldContainer[TokenIds]
    def __init__(self, sequences: _Optional[_Iterable[_Union[TokenIds, _Mapping]]] = ...) -> None: ...

class SequenceBias(_message.Message):
    __slots__ = ("ids", "bias")
    IDS_FIELD_NUMBER: _ClassVar[int]
    BIAS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    bias: float
    def __init__(self, ids: _Optional[_Iterable[int]] = ..., bias: _Optional[float] = ...) -> None: ...

class SequenceBiases(_message.Message):
    __slots__ = ("biases",)
    BIASES_FIELD_NUMBER: _ClassVar[int]
    biases: _containers.RepeatedCompositeFieldContainer[SequenceBias]
    def __init__(self, biases: _Optional[_Iterable[_Union[SequenceBias, _Mapping]]] = ...) -> None: ...

class ExponentialDecay(_message.Message):
    __slots__ = ("start", "factor")
    START_FIELD_NUMBER: _ClassVar[int]
    FACTOR_FIELD_NUMBER: _ClassVar[int]
    start: int
    factor: float
    def __init__(self, start: _Optional[int] = ..., factor: _Optional[float] = ...) -> None: ...

class GenerationOptions(_message.Message):
    __slots__ = ("max_length", "max_new_tokens", "min_length", "min_new_tokens", "num_beams", "do_sample", "num_return_sequences", "early_stopping", "length_penalty", "seed", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "encoder_repetition_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "forced_bos_token_id", "forced_eos_token_id", "eos_token_id", "suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "sequence_bias", "decoder_start_token_id", "exponential_decay_length_penalty", "renormalize_logits")
    MAX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MIN_LENGTH_FIELD_NUMBER: _ClassVar[int]
    MIN_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    NUM_BEAMS_FIELD_NUMBER: _ClassVar[int]
    DO_SAMPLE_FIELD_NUMBER: _ClassVar[int]
    NUM_RETURN_SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    EARLY_STOPPING_FIELD_NUMBER: _ClassVar[int]
    LENGTH_PENALTY_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    ENCODER_REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    NO_REPEAT_NGRAM_SIZE_FIELD_NUMBER: _ClassVar[int]
    ENCODER_NO_REPEAT_NGRAM_SIZE_FIELD_NUMBER: _ClassVar[int]
    FORCED_BOS_TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    FORCED_EOS_TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    EOS_TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    SUPPRESS_TOKENS_FIELD_NUMBER: _ClassVar[int]
    BEGIN_SUPPRESS_TOKENS_FIELD_NUMBER: _ClassVar[int]
    BAD_WORDS_IDS_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_BIAS_FIELD_NUMBER: _ClassVar[int]
    DECODER_START_TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    EXPONENTIAL_DECAY_LENGTH_PENALTY_FIELD_NUMBER: _ClassVar[int]
    RENORMALIZE_LOGITS_FIELD_NUMBER: _ClassVar[int]
    max_length: int
    max_new_tokens: int
    min_length: int
    min_new_tokens: int
    num_beams: int
    do_sample: bool
    num_return_sequences: int
    early_stopping: EarlyStopping
    length_penalty: float
    seed: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    encoder_repetition_penalty: float
    no_repeat_ngram_size: int
    encoder_no_repeat_ngram_size: int
    forced_bos_token_id: TokenIds
    forced_eos_token_id: TokenIds
    eos_token_id: TokenIds
    suppress_tokens: TokenIds
    begin_suppress_tokens: TokenIds
    bad_words_ids: TokenSequences
    sequence_bias: SequenceBiases
    decoder_start_token_id: int
    exponential_decay_length_penalty: ExponentialDecay
    renormalize_logits: bool
    def __init__(self, max_length: _Optional[int] = ..., max_new_tokens: _Optional[int] = ..., min_length: _Optional[int] = ..., min_new_tokens: _Optional[int] = ..., num_beams: _Optional[int] = ..., do_sample: _Optional[bool] = ..., num_return_sequences: _Optional[int] = ..., early_stopping: _Optional[_Union[EarlyStopping, str]] = ..., length_penalty: _Optional[float] = ..., seed: _Optional[int] = ..., temperature: _Optional[float] = ..., top_k: _Optional[int] = ..., top_p: _Optional[float] = ..., min_p: _Optional[float] = ..., repetition_penalty: _Optional[float] = ..., encoder_repetition_penalty: _Optional[float] = ..., no_repeat_ngram_size: _Optional[int] = ..., encoder_no_repeat_ngram_size: _Optional[int] = ..., forced_bos_token_id: _Optional[_Union[TokenIds, _Mapping]] = ..., forced_eos_token_id: _Optional[_Union[TokenIds, _Mapping]] = ..., eos_token_id: _Optional[_Union[TokenIds, _Mapping]] = ..., suppress_tokens: _Optional[_Union[TokenIds, _Mapping]] = ..., begin_suppress_tokens: _Optional[_Union[TokenIds, _Mapping]] = ..., bad_words_ids: _Optional[_Union[TokenSequences, _Mapping]] = ..., sequence_bias: _Optional[_Union[SequenceBiases, _Mapping]] = ..., decoder_start_token_id: _Optional[int] = ..., exponential_decay_length_penalty: _Optional[_Union[ExponentialDecay, _Mapping]] = ..., renormalize_logits: _Optional[bool] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("input_tokens", "output_tokens", "truncated", "queue_time", "compute_time", "model", "model_revision")
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    QUEUE_TIME_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_TIME_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    MODEL_REVISION_FIELD_NUMBER: _ClassVar[int]
    input_tokens: int
    output_tokens: int
    truncated: bool
    queue_time: _duration_pb2.Duration
    compute_time: _duration_pb2.Duration
    model: str
    model_revision: str
    def __init__(self, input_tokens: _Optional[int] = ..., output_tokens: _Optional[int] = ..., truncated: _Optional[bool] = ..., queue_time: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., compute_time: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., model: _Optional[str] = ..., model_revision: _Optional[str] = ...) -> None: ...

class Sequence(_message.Message):
    __slots__ = ("text", "token_ids", "score", "finish_reason")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    text: str
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    score: float
    finish_reason: FinishReason
    def __init__(self, text: _Optional[str] = ..., token_ids: _Optional[_Iterable[int]] = ..., score: _Optional[float] = ..., finish_reason: _Optional[_Union[FinishReason, str]] = ...) -> None: ...

class Window(_message.Message):
    __slots__ = ("begin", "end", "input_tokens", "summary")
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    INPUT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    begin: int
    end: int
    input_tokens: int
    summary: Sequence
    def __init__(self, begin: _Optional[int] = ..., end: _Optional[int] = ..., input_tokens: _Optional[int] = ..., summary: _Optional[_Union[Sequence, _Mapping]] = ...) -> None: ...

class Delta(_message.Message):
    __slots__ = ("text", "token_ids", "window")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    WINDOW_FIELD_NUMBER: _ClassVar[int]
    text: str
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    window: int
    def __init__(self, text: _Optional[str] = ..., token_ids: _Optional[_Iterable[int]] = ..., window: _Optional[int] = ...) -> None: ...

class SummarizeRequest(_message.Message):
    __slots__ = ("model", "text", "options", "long_input")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    LONG_INPUT_FIELD_NUMBER: _ClassVar[int]
    model: str
    text: str
    options: GenerationOptions
    long_input: LongInput
    def __init__(self, model: _Optional[str] = ..., text: _Optional[str] = ..., options: _Optional[_Union[GenerationOptions, _Mapping]] = ..., long_input: _Optional[_Union[LongInput, str]] = ...) -> None: ...

class SummarizeResponse(_message.Message):
    __slots__ = ("text", "windows", "usage")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    WINDOWS_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    text: str
    windows: _containers.RepeatedCompositeFieldContainer[Window]
    usage: Usage
    def __init__(self, text: _Optional[str] = ..., windows: _Optional[_Iterable[_Union[Window, _Mapping]]] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ...) -> None: ...

class StreamSummarizeRequest(_message.Message):
    __slots__ = ("model", "text", "options", "long_input")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    LONG_INPUT_FIELD_NUMBER: _ClassVar[int]
    model: str
    text: str
    options: GenerationOptions
    long_input: LongInput
    def __init__(self, model: _Optional[str] = ..., text: _Optional[str] = ..., options: _Optional[_Union[GenerationOptions, _Mapping]] = ..., long_input: _Optional[_Union[LongInput, str]] = ...) -> None: ...

class StreamSummarizeResponse(_message.Message):
    __slots__ = ("delta", "summary")
    DELTA_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    delta: Delta
    summary: SummarizeResponse
    def __init__(self, delta: _Optional[_Union[Delta, _Mapping]] = ..., summary: _Optional[_Union[SummarizeResponse, _Mapping]] = ...) -> None: ...

class BatchSummarizeRequest(_message.Message):
    __slots__ = ("model", "texts", "options", "long_input")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TEXTS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    LONG_INPUT_FIELD_NUMBER: _ClassVar[int]
    model: str
    texts: _containers.RepeatedScalarFieldContainer[str]
    options: GenerationOptions
    long_input: LongInput
    def __init__(self, model: _Optional[str] = ..., texts: _Optional[_Iterable[str]] = ..., options: _Optional[_Union[GenerationOptions, _Mapping]] = ..., long_input: _Optional[_Union[LongInput, str]] = ...) -> None: ...

class BatchSummarizeResponse(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[BatchSummarizeItem]
    def __init__(self, items: _Optional[_Iterable[_Union[BatchSummarizeItem, _Mapping]]] = ...) -> None: ...

class BatchSummarizeItem(_message.Message):
    __slots__ = ("summary", "error")
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    summary: SummarizeResponse
    error: ItemStatus
    def __init__(self, summary: _Optional[_Union[SummarizeResponse, _Mapping]] = ..., error: _Optional[_Union[ItemStatus, _Mapping]] = ...) -> None: ...

class ItemStatus(_message.Message):
    __slots__ = ("code", "message", "details")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    DETAILS_FIELD_NUMBER: _ClassVar[int]
    code: int
    message: str
    details: _containers.RepeatedCompositeFieldContainer[_any_pb2.Any]
    def __init__(self, code: _Optional[int] = ..., message: _Optional[str] = ..., details: _Optional[_Iterable[_Union[_any_pb2.Any, _Mapping]]] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("model", "text", "token_ids", "options", "long_input")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    LONG_INPUT_FIELD_NUMBER: _ClassVar[int]
    model: str
    text: str
    token_ids: TokenIds
    options: GenerationOptions
    long_input: LongInput
    def __init__(self, model: _Optional[str] = ..., text: _Optional[str] = ..., token_ids: _Optional[_Union[TokenIds, _Mapping]] = ..., options: _Optional[_Union[GenerationOptions, _Mapping]] = ..., long_input: _Optional[_Union[LongInput, str]] = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("sequences", "usage")
    SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    sequences: _containers.RepeatedCompositeFieldContainer[Sequence]
    usage: Usage
    def __init__(self, sequences: _Optional[_Iterable[_Union[Sequence, _Mapping]]] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ...) -> None: ...

class StreamGenerateRequest(_message.Message):
    __slots__ = ("model", "text", "token_ids", "options", "long_input")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    LONG_INPUT_FIELD_NUMBER: _ClassVar[int]
    model: str
    text: str
    token_ids: TokenIds
    options: GenerationOptions
    long_input: LongInput
    def __init__(self, model: _Optional[str] = ..., text: _Optional[str] = ..., token_ids: _Optional[_Union[TokenIds, _Mapping]] = ..., options: _Optional[_Union[GenerationOptions, _Mapping]] = ..., long_input: _Optional[_Union[LongInput, str]] = ...) -> None: ...

class StreamGenerateResponse(_message.Message):
    __slots__ = ("delta", "result")
    DELTA_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    delta: Delta
    result: GenerateResponse
    def __init__(self, delta: _Optional[_Union[Delta, _Mapping]] = ..., result: _Optional[_Union[GenerateResponse, _Mapping]] = ...) -> None: ...

class Labels(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, ids: _Optional[_Iterable[int]] = ...) -> None: ...

class ScoreRequest(_message.Message):
    __slots__ = ("model", "text", "token_ids", "target_text", "labels", "long_input")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    TARGET_TEXT_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    LONG_INPUT_FIELD_NUMBER: _ClassVar[int]
    model: str
    text: str
    token_ids: TokenIds
    target_text: str
    labels: Labels
    long_input: LongInput
    def __init__(self, model: _Optional[str] = ..., text: _Optional[str] = ..., token_ids: _Optional[_Union[TokenIds, _Mapping]] = ..., target_text: _Optional[str] = ..., labels: _Optional[_Union[Labels, _Mapping]] = ..., long_input: _Optional[_Union[LongInput, str]] = ...) -> None: ...

class ScoreResponse(_message.Message):
    __slots__ = ("labels", "log_probs", "usage")
    LABELS_FIELD_NUMBER: _ClassVar[int]
    LOG_PROBS_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    labels: Labels
    log_probs: _containers.RepeatedScalarFieldContainer[float]
    usage: Usage
    def __init__(self, labels: _Optional[_Union[Labels, _Mapping]] = ..., log_probs: _Optional[_Iterable[float]] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ...) -> None: ...

class ClassifyZeroShotRequest(_message.Message):
    __slots__ = ("model", "text", "labels", "hypothesis_template", "multi_label", "long_input")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    HYPOTHESIS_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    MULTI_LABEL_FIELD_NUMBER: _ClassVar[int]
    LONG_INPUT_FIELD_NUMBER: _ClassVar[int]
    model: str
    text: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    hypothesis_template: str
    multi_label: bool
    long_input: LongInput
    def __init__(self, model: _Optional[str] = ..., text: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., hypothesis_template: _Optional[str] = ..., multi_label: _Optional[bool] = ..., long_input: _Optional[_Union[LongInput, str]] = ...) -> None: ...

class ClassifyZeroShotResponse(_message.Message):
    __slots__ = ("labels", "usage")
    LABELS_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    labels: _containers.RepeatedCompositeFieldContainer[LabelScore]
    usage: Usage
    def __init__(self, labels: _Optional[_Iterable[_Union[LabelScore, _Mapping]]] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ...) -> None: ...

class LabelScore(_message.Message):
    __slots__ = ("label", "score")
    LABEL_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    label: str
    score: float
    def __init__(self, label: _Optional[str] = ..., score: _Optional[float] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "revision", "tasks", "dtype", "platform", "devices", "limits")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    TASKS_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    PLATFORM_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    name: str
    revision: str
    tasks: _containers.RepeatedScalarFieldContainer[Task]
    dtype: str
    platform: str
    devices: int
    limits: Limits
    def __init__(self, name: _Optional[str] = ..., revision: _Optional[str] = ..., tasks: _Optional[_Iterable[_Union[Task, str]]] = ..., dtype: _Optional[str] = ..., platform: _Optional[str] = ..., devices: _Optional[int] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("source_tokens", "target_tokens", "source_buckets", "beams", "sampling_beams", "rows", "text_bytes", "batch_items", "labels", "label_bytes")
    SOURCE_TOKENS_FIELD_NUMBER: _ClassVar[int]
    TARGET_TOKENS_FIELD_NUMBER: _ClassVar[int]
    SOURCE_BUCKETS_FIELD_NUMBER: _ClassVar[int]
    BEAMS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_BEAMS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    TEXT_BYTES_FIELD_NUMBER: _ClassVar[int]
    BATCH_ITEMS_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    LABEL_BYTES_FIELD_NUMBER: _ClassVar[int]
    source_tokens: int
    target_tokens: int
    source_buckets: _containers.RepeatedScalarFieldContainer[int]
    beams: _containers.RepeatedScalarFieldContainer[int]
    sampling_beams: _containers.RepeatedScalarFieldContainer[int]
    rows: int
    text_bytes: int
    batch_items: int
    labels: int
    label_bytes: int
    def __init__(self, source_tokens: _Optional[int] = ..., target_tokens: _Optional[int] = ..., source_buckets: _Optional[_Iterable[int]] = ..., beams: _Optional[_Iterable[int]] = ..., sampling_beams: _Optional[_Iterable[int]] = ..., rows: _Optional[int] = ..., text_bytes: _Optional[int] = ..., batch_items: _Optional[int] = ..., labels: _Optional[int] = ..., label_bytes: _Optional[int] = ...) -> None: ...
