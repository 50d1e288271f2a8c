"""Few-shot generators of pictures with boxes that saw only the k pictures that the detector sees, and what they make.

    python benchmarks/few_shot_boxes.py DATA BASE OUT --shots 20 --shots 50 --fold 1

DATA: a prepared data set. BASE: a model of another data set, all that a generator may know beside the k pictures. For every
k and seed those pictures (the subset that `diffgraft evaluate detect DATA OUT --shots k` trains its detectors on,
too) fine-tune BASE, and then OUT/k<k>-s<seed> holds new pictures for layouts drawn from theirs. What exists already is left
as it is, so that the same command continues.
"""

from __future__ import annotations

from fine_tuning import arguments, runs

from diffgraft.generation.generate import generate
from diffgraft.training.train import train
from domains import detection
from toolkit.data import dataset, labels
from toolkit.evaluation.split import few_images


def main() -> None:
    parser = arguments(__doc__, steps=800)
    parser.add_argument("--seed", type=int, action="append")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--codec-steps", type=int, default=300)
    parser.add_argument("--count", type=int, default=100)
    options = parser.parse_args()
    examples = list(dataset.read(options.data))
    vocabulary = labels.vocabulary_of(dataset.read_info(options.data), detection)
    for run in runs(options, (20, 50), options.seed or [0, 1, 2]):
        if not run.few.exists():
            detection.write(few_images(examples, run.shots, run.seed, options.fold), run.few, vocabulary)
        if not (run.model / "codec.safetensors").is_file():
            # A codec that never saw such pictures would give none of their colours back.
            train(
                detection, run.few, run.model, "codec", base=options.base, steps=options.codec_steps, fold=-1, seed=run.seed
            )  # fmt: skip
        run.fine_tune(detection, options)
        generated = options.out / run.name
        if not generated.exists():
            # No detector saw only these pictures, so nothing is filtered.
            generate(
                run.model, generated, count=options.count, settings=run.sampling(options), like=run.few, backend="torch"
            )  # fmt: skip


if __name__ == "__main__":
    main()
