"""How well an anomaly map finds lesions: voxels pooled over patients, lesions by size, healthy slices, slices.

Arrays are stacks (slices, rows, cols); a larger score is more abnormal; a voxel is called abnormal when its score is
at least the threshold. Pooling takes one threshold for all patients, so a map whose scale differs from patient to
patient loses. Confidence intervals resample patients, never voxels: voxels of one head are not independent.

numpy and scipy.ndimage. Voxels outside the region are not counted, neither as hits nor as misses; how many lesion
voxels that leaves out is reported. Undefined figures are None.
"""

from toolkit.evaluation.anomaly.comparison import Difference, compare
from toolkit.evaluation.anomaly.curves import (
    BestDice,
    Curve,
    auroc,
    average_precision,
    best_dice,
    curve,
    dice_at,
    tuned_dice,
)
from toolkit.evaluation.anomaly.measure import Case, anomaly_report
from toolkit.evaluation.anomaly.report import (
    REGIONS,
    AnomalyReport,
    Bootstrap,
    EvaluationProtocol,
    LesionCriteria,
    RegionReport,
    Stratum,
    table,
)

__all__ = [
    "REGIONS", "AnomalyReport", "BestDice", "Bootstrap", "Case", "Curve", "Difference", "EvaluationProtocol", "LesionCriteria",
    "RegionReport", "Stratum", "anomaly_report", "auroc", "average_precision", "best_dice", "compare", "curve", "dice_at",
    "table", "tuned_dice",
]  # fmt: skip
