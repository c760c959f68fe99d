"""Evaluations as tables for the terminal."""

from selfie_tf.methods import METHODS
from selfie_tf.training.finetune import describe_metrics


def finetuned_report(result: dict) -> str:
    """Formats the result of `evaluate_finetuned`; at most 20 classes, those of lowest recall."""
    headline = describe_metrics(result)
    table = sorted(result["classes"], key=lambda row: 2 if row["recall"] is None else row["recall"])
    balanced = next(v for k, v in result.items() if k.endswith("balanced_accuracy"))
    lines = [result["model"], f"{result['data']}: {headline}"]
    lines += [f"balanced accuracy, the mean of the classes' recall: {balanced:.4f}", ""]
    width = max(len(row["class"]) for row in table[:20])
    lines.append(f"{'class':{width}}  images  recall  precision  most confused with")
    for row in table[:20]:
        recall, precision = (
            "-" if row[key] is None else f"{row[key]:.3f}" for key in ("recall", "precision")
        )
        lines.append(
            f"{row['class']:{width}}  {row['images']:6}  {recall:>6}  {precision:>9}  "
            f"{row['confused_with'] or '-'}"
        )
    if len(table) > 20:
        lines.append(f"... and {len(table) - 20} classes with a higher recall")
    return "\n".join(lines)


def pretrained_report(result: dict) -> str:
    """Formats the result of `evaluate_pretrained`."""
    lines = [result["model"], METHODS[result["method"]].describe(result)]
    probes = result["probes"]
    if probes:
        lines += [
            f"frozen features of {probes['data']}, {probes['training_images']} labelled images, "
            f"tested on {probes['test_images']}:",
            f"{'':24}  20 nearest neighbours  linear probe",
        ]
        for key in ("pretrained", "untrained", "pretrained_reestimated", "untrained_reestimated"):
            knn, linear = probes[key]["knn_top1"], probes[key]["linear_probe_top1"]
            name = key.replace("_reestimated", ", re-estimated")
            lines.append(f"{name:24}  {knn:21.3f}  {linear:12.3f}")
        lines.append(
            "re-estimated: with batch statistics of "
            f"{probes['statistics_images']} whole training images"
        )
    return "\n".join(lines)
