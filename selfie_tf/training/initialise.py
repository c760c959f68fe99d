"""What a run takes over from a pretrained one: its network, and its weights."""

import copy
import logging
import os

from selfie_tf.config import NETWORK_KEYS, PretrainConfig
from selfie_tf.data import make_source
from selfie_tf.errors import UserError
from selfie_tf.methods import read_config
from selfie_tf.models.transfer import copy_weights, load_pretrained_weights
from selfie_tf.storage.files import read_json
from selfie_tf.training.load import load_pretraining_run, read_run_config

# What the weights of ResNet-50 depend on. It uses neither patches nor attention.
_RESNET50_KEYS = ("model.width", "model.stem")


def take_network(config, workdir: str):
    """Gives a config the network of the run that `init_from` names.

    A run that has begun takes the network from its own config.json, so it resumes even if the
    pretrained run is gone.

    Args:
      config: A `config.RunConfig`; it is not changed.
      workdir: The work directory of the run.

    Returns:
      A config with the values of `config.NETWORK_KEYS` of the pretrained run; `config` itself
      without `init_from`.

    Raises:
      UserError: If there is no pretraining run, or the user has set a key to a value that does not
        fit it.
    """
    if not config.init_from:
        return config
    begun = read_json(workdir, "config.json")
    resumes = begun is not None and begun.get("init_from") == config.init_from
    theirs = read_config(begun) if resumes else _pretraining_config(config.init_from)
    given = config.explicit_keys()
    head = getattr(config.model, "head", None)
    binding = _RESNET50_KEYS if head == "resnet50" else NETWORK_KEYS
    result, taken = copy.deepcopy(config), []
    for key in NETWORK_KEYS:
        section, _, name = key.partition(".")
        mine, wanted = (getattr(getattr(c, section), name) for c in (config, theirs))
        if mine == wanted:
            continue
        if key not in given:
            setattr(getattr(result, section), name, wanted)
            taken.append(f"{key}={wanted}")
        elif key in binding and not resumes:
            raise UserError(
                f"init_from={config.init_from} does not fit: {key} is {wanted} there, and you set "
                f"{mine}; leave --config.{key} out"
            )
    result.set_explicit(given)
    if taken:
        logging.info("the network is that of %s: %s", config.init_from, ", ".join(taken))
    return result


def _pretraining_config(path):
    config = read_run_config(os.path.expanduser(path))
    if not isinstance(config, PretrainConfig):
        raise UserError(f"{path} comes from a finetuning run; give a pretraining run")
    return config


def initialise_classifier(config, model) -> dict:
    """Loads the weights that a finetuning run takes over; its network is that of `init_from`.

    Args:
      config: A `config.FinetuneConfig`.
      model: Built, with initial weights.

    Returns:
      The contents of initialisation.json.

    Raises:
      UserError: If the pretrained network does not fit; nothing is loaded then.
    """
    if not config.init_from or config.from_scratch:
        logging.info("initialisation: all weights are random (the supervised baseline)")
        return {"from": "", "step": 0, "config": None}
    pretrained = load_pretraining_run(os.path.expanduser(config.init_from))
    used = load_pretrained_weights(model, pretrained.model, f"init_from={config.init_from}")
    if config.model.head == "patchformer":
        before, now = pretrained.config.patches.size, config.patches.size
        if before != now:
            logging.warning("patches were %d pixels a side in pretraining, now %d", before, now)
    return _note(config, pretrained, used)


def initialise_pretrainer(config, model, source, data_dir: str) -> dict | None:
    """Loads all weights of the pretrained run that this run continues from.

    Warns of images that the pretrained run was trained on and that this run holds out.

    Args:
      config: A `config.PretrainConfig`.
      model: Built, with initial weights.
      source: The images of this run.
      data_dir: See `data.make_source`.

    Returns:
      The contents of initialisation.json; None without `init_from`.

    Raises:
      UserError: If the pretrained run is of another method, or does not fit.
    """
    if not config.init_from:
        return None
    parent = load_pretraining_run(os.path.expanduser(config.init_from))
    origin = f"init_from={config.init_from}"
    if parent.config.method != config.method:
        raise UserError(
            f"{origin} is a run of {parent.config.method}, and this config is of {config.method}: "
            "give a run or a config of the same method"
        )
    used = copy_weights(parent.model, model, origin)
    _warn_of_overlap(parent, source, data_dir)
    return {**_note(config, parent, used), "fingerprint": parent.fingerprint}


def _warn_of_overlap(parent, source, data_dir):
    if parent.fingerprint == source.fingerprint:
        return  # the images are the same, and so are those held out
    try:
        theirs = make_source(parent.config.data, data_dir)
    except UserError as error:
        logging.warning(
            "cannot tell whether held-out images were trained on by %s (%s)", parent.origin, error
        )
        return
    trained = {os.path.join(theirs.location, name) for name in theirs.train_ids()}
    held_out = [os.path.join(source.location, name) for name in source.held_out_ids()]
    both = [name for name in held_out if name in trained]
    if both:
        logging.warning(
            "%d of %d held-out images were trained on by %s, so held-out metrics are too good; the "
            "first is %s",
            len(both),
            len(held_out),
            parent.origin,
            both[0],
        )


def _note(config, pretrained, used):
    """Logs what was loaded; returns the contents of initialisation.json."""
    logging.info("initialisation: loaded from %s: %s", pretrained.origin, _sum_up(used["loaded"]))
    if used["fresh"]:
        logging.info("  randomly initialised: %s", _sum_up(used["fresh"]))
    if used["unused"]:
        logging.info("  not used: %s", _sum_up(used["unused"]))
    theirs = pretrained.config
    return {
        "from": config.init_from,
        "step": pretrained.step,
        "config": {
            "method": theirs.method,
            "data": theirs.data.name,
            "crop": theirs.data.crop,
            "steps": theirs.train.steps,
        },
        **used,
    }


_DEEP = ("backbone/", "attention_pooling/", "patch_network/", "transformer/")


def _sum_up(names) -> str:
    """Names of tensors by layer, with their number: "backbone/group1 (42), head (2)"."""
    counts = {}
    for name in names:
        depth = 2 if name.startswith(_DEEP) else 1
        layer = "/".join(name.split("/")[:depth])
        counts[layer] = counts.get(layer, 0) + 1
    return ", ".join(f"{layer} ({count})" for layer, count in counts.items())
