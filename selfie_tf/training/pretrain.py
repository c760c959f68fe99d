"""Pretraining: from a config and images without labels to a pretrained network."""

import logging

import tensorflow as tf

from selfie_tf.config import PretrainConfig
from selfie_tf.data import make_source
from selfie_tf.methods import METHODS
from selfie_tf.training.build import build_pretrainer, compile_model, num_weights
from selfie_tf.training.initialise import initialise_pretrainer, take_network
from selfie_tf.training.loop import Hook, Trainer, last_metrics, make_predict_fn
from selfie_tf.training.pictures import NeighbourPicture, Pictures, TaskPicture
from selfie_tf.training.probe import Probe
from selfie_tf.training.report import leave_report
from selfie_tf.training.run import Run


def pretrain(
    config: PretrainConfig,
    workdir: str,
    strategy: tf.distribute.Strategy | None = None,
    data_dir: str = "",
    download: bool = False,
    remote_data: bool = False,
    began: float | None = None,
) -> dict:
    """Pretrains `config` in `workdir`, or resumes an earlier run of it.

    Args:
      config: A `config.SelfieConfig` or `config.PatchFormerConfig`.
      workdir: The folder of this run alone; docs/GUIDE.md says what it holds afterwards.
      strategy: See `distribution.strategy.make_strategy`; by default the current one.
      data_dir, download, remote_data: See `data.make_source`.
      began: When the command began, for the log; see `training.run.Run`.

    Returns:
      The contents of result.json.

    Raises:
      UserError: On anything that the user can mend, see `training.run.Run`.
      Interrupted: On SIGTERM or SIGINT, after saving.
    """
    method = METHODS[config.method]
    config = take_network(config, workdir)
    with Run(config, workdir, strategy or tf.distribute.get_strategy(), began) as run:
        if run.result is not None:
            leave_report(run, data_dir)
            return run.result
        run.use(make_source(config.data, data_dir, download, remote_data))
        probe = Probe(run, data_dir, download, remote_data) if config.train.probe_every else None
        run.prepare()
        with run.strategy.scope():
            model = build_pretrainer(config)
            compile_model(config, model, run.steps_per_execution)
        trainer = Trainer(run, model)
        if trainer.step:
            initialisation = run.directory.read_json("initialisation.json")
        else:
            with run.strategy.scope():
                initialisation = initialise_pretrainer(config, model, run.source, data_dir)
        run.begin()
        if initialisation is not None:
            run.directory.write_json("initialisation.json", initialisation)
        predict = make_predict_fn(run.strategy, model)
        features = make_predict_fn(run.strategy, model.image_features)
        if method.trains_task(config):
            pictures = Pictures(run, TaskPicture(method, run, predict))
        else:
            pictures = Pictures(run, NeighbourPicture(run, features))
        pictures.rewind(trainer.step)
        hooks = [Hook(config.train.picture_every, pictures.draw, at_start=True)]
        if probe is not None:
            probe.begin(features)
            hooks.append(Hook(config.train.probe_every, probe, at_start=True))
        trainer.fit(
            lambda step, shard, size: method.training_batches(
                run.source, config, step, shard, size
            ),
            hooks,
        )
        pictures.draw_progress()
        points = run.directory.points("metrics.jsonl")
        accuracy, more = model.accuracy_metric.name, [m.name for m in model.more_metrics]
        trained = last_metrics(points, ("loss", accuracy, *more), config.train.steps)
        held_out = method.evaluate(config, run.source, predict)
        result = {
            **method.result(trained, held_out),
            "trainable_weights": num_weights(model),
            "resumed_at": trainer.resumed_at,
            "data": {
                "name": config.data.name,
                "training_images": run.source.num_train,
                "held_out_images": run.source.num_held_out,
            },
        }
        if initialisation is not None:
            kept = ("from", "step", "fingerprint", "config")
            result["initialisation"] = {key: initialisation[key] for key in kept}
        if probe is not None:
            result["probe"] = probe.result()
        if run.is_chief and points:
            with tf.io.gfile.GFile(run.directory.join("figures", "curves.png"), "wb") as file:
                method.draw_curves(file, points, result, run.directory.points("probes.jsonl"))
        logging.info(
            "finished: %s %s over the last %d steps; %s; see %s and %s",
            accuracy.replace("_", " "),
            "unknown" if trained[accuracy] is None else f"{trained[accuracy]:.3f}",
            trained["averaged_steps"],
            method.describe(held_out),
            run.directory.join("result.json"),
            run.directory.join("figures"),
        )
        result = run.finish(result)
        leave_report(run, data_dir, run.source)
        return result
