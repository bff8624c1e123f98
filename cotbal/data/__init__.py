"""Records of instruction-tuning data: reading, subsets, and collation with labels on answers only."""

from cotbal.data.formats import BadRecordsError, Problem, Record, RecordSet, Turn, iter_records, read_records
from cotbal.data.splits import mini_indices, preparation_sets

__all__ = [
    "BadRecordsError",
    "Problem",
    "Record",
    "RecordSet",
    "Turn",
    "iter_records",
    "mini_indices",
    "preparation_sets",
    "read_records",
]
