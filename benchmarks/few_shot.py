"""Few-shot generators that saw only the k labelled images of a class that the classifier sees, and what they make.

    python benchmarks/few_shot.py DATA BASE OUT --shots 5 --shots 10 --seeds 3

DATA: prepared leaves. BASE: a model of other crops. For every k and seed the k images of each class (the subset that
`diffgraft evaluate classify DATA OUT/dafusion --shots k` trains its classifiers on, too) fine-tune BASE, and then
OUT/dafusion/k<k>-s<seed> holds DA-Fusion's variants of those images, OUT/generated/k<k>-s<seed> new ones from noise.
What exists already is left as it is, so that the same command continues.
"""

from __future__ import annotations

from fine_tuning import arguments, runs

from diffgraft.editing.edit import edit
from diffgraft.generation.generate import generate
from domains import plant_disease
from toolkit.data import dataset, labels
from toolkit.evaluation.split import few_shot


def main() -> None:
    parser = arguments(__doc__, steps=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--per-class", type=int, default=60)
    options = parser.parse_args()
    examples, target = list(dataset.read(options.data)), plant_disease.TARGET
    vocabulary = labels.vocabulary_of(dataset.read_info(options.data), plant_disease)
    classes = vocabulary[target]
    assert isinstance(classes, tuple), "the target is a class"
    for run in runs(options, (5, 10, 20), range(options.seeds)):
        if not run.few.exists():
            plant_disease.write(few_shot(examples, target, run.shots, run.seed, fold=0), run.few, vocabulary)
        run.fine_tune(plant_disease, options)
        varied, generated = (options.out / kind / run.name for kind in ("dafusion", "generated"))
        settings = run.sampling(options)
        if not varied.exists():
            variants = -(-options.per_class // run.shots)
            edit(
                run.model,
                run.few,
                varied,
                "dafusion",
                strength=1.0,
                variants=variants,
                settings=settings,
                backend="torch",
            )
        if not generated.exists():
            count = options.per_class * len(classes)
            generate(run.model, generated, {}, count, settings, like=run.few, balance=target, backend="torch")


if __name__ == "__main__":
    main()
