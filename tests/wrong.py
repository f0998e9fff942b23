"""Parameter files that are wrong, each with the whole message that its user must get."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import yaml
from pydantic import BaseModel

from models.params import Family, Model
from pipeline.core import params
from pipeline.core.params import UserError
from pipeline.fitting.fit import Train
from pipeline.schema import check_all

ROOT = Path(__file__).parents[1]
SCHEMA = ROOT / "params.schema.json"
GIVEN = (ROOT / "params.yaml").read_text()


def written(folder: Path, text: str) -> Path:
    path = folder / "params.yaml"
    path.write_text(text, encoding="utf-8")
    params._read.cache_clear()
    return path


def with_line(key: str, line: str) -> str:
    """The repository's file with one top-level key replaced by `line`."""
    content = yaml.safe_load(GIVEN)
    content.pop(key, None)
    return f"# a comment\n{line}\n" + yaml.safe_dump(content)


def refusal(folder: Path, text: str) -> str:
    """What `check_all` says of a file, told without its folder."""
    path = written(folder, text)
    with pytest.raises(UserError) as told:
        check_all(path)
    return str(told.value).replace(str(path), "params.yaml")


def keys(kind: type[BaseModel]) -> str:
    return ", ".join(kind.model_fields)


FAMILIES = " or ".join(", ".join(f"'{name}'" for name in get_args(Family)).rsplit(", ", 1))
WRONG = {  # a section as one line of YAML (the file's second): all of the message
    "model: {widht: 3}": "unknown key 'model.widht'; did you mean 'width'? "
    f"(allowed: {keys(Model)})",
    "model: {width: 0}": "'model.width' must be at least 1 and at most 4096; found 0",
    "model: {width: 4097}": "'model.width' must be at least 1 and at most 4096; found 4097",
    "model: {dropout: 1}": "'model.dropout' must be at least 0 and below 1; found 1",
    "model: {dropout: .nan}": "'model.dropout' must be at least 0 and below 1; found nan",
    "model: {width: many}": "'model.width' must be a valid integer; found 'many'",
    "model: {width: null}": "'model.width' must be a valid integer; found null",
    "model: {family: svm}": f"'model.family' must be {FAMILIES}; found 'svm'",
    "model: {1: 2}": "'model.1' must be text, as every key is; found 1",
    "model: [cnn]": f"'model' must hold keys with values (allowed: {keys(Model)}); "
    "found ['cnn']",
    "model: {width: 1, width: 2}": "'model.width' is given twice",
    "data: {image: {hieght: 3}}": "unknown key 'data.image.hieght'; did you mean 'height'? "
    "(allowed: height, width, channels, background, min_side, max_side)",
    "data: {image: {height: 2000}}": "'data.image.height' must be at least 4 and at most 1024; found 2000",
    "data: {image: 3}": "'data.image' must hold keys with values "
    "(allowed: height, width, channels, background, min_side, max_side); found 3",
    "train: {augmentation: {rotation: 200}}": "'train.augmentation.rotation' must be at least 0 and at most 180; "
    "found 200",
    "train: {lr: -1}": "'train.lr' must be at least 0 and at most 10; found -1",
    "prepare: {folds: {number: 1}}": "'prepare.folds': number is 1, which leaves nothing to hold out against; 0 makes "
    "none, 2 are the fewest; found {'number': 1}",
    "prepare: {folds: {inner: 3}}": "'prepare.folds': inner is 3, and there are no folds for them to lie in; set "
    "number, or inner to 0; found {'inner': 3}",
    "tune: {nested: true, space: {train.lr: {low: 0.1, high: 1}}}": "'tune.nested' searches in folds within folds; "
    "prepare.folds has number 0 and inner 0; make them 5 and 3, or nested false",
    "prepare: {val: 0.6, test: 0.6}": "'prepare': val + test is 1.2; they must leave some for training; "
    "found {'val': 0.6, 'test': 0.6}",
    "server: {host: 0.0.0.0}": "'server.host' must be '127.0.0.1'; found '0.0.0.0'",
    "server: {inference_port: 8082}": "'server': inference_port, management_port, metrics_port, prometheus_port "
    "must differ; "
    "found {'inference_port': 8082}",
    "server: {heap: lots}": "'server.heap' must match ^[1-9][0-9]*[mg]$ "
    "(Java's largest heap: '512m', '2g'.); found 'lots'",
    "seed: -1": "'seed' must be at least 0 and below 2147483648; found -1",
    "seed: seven": "'seed' must be a valid integer; found 'seven'",
    "tune: {space: {train.lr: {lwo: 1}}}": "unknown key 'tune.space.train.lr.lwo'; did you mean 'low'? "
    "(allowed: low, high, log, step, points, choices, when)",
    "tune: {space: {train.lr: {low: a, high: 1}}}": "'tune.space.train.lr.low' must be a valid integer or "
    "a valid number; found 'a'",
    "tune: {space: {train.lr: {choices: [[1]]}}}": "'tune.space.train.lr.choices.0' must be a valid boolean or "
    "a valid integer or a valid number or a valid string; found [1]",
    "tune: {space: {train.lr: 3}}": "'tune.space.train.lr' must hold keys with values "
    "(allowed: low, high, log, step, points, choices, when); found 3",
    "tune: {space: {train.lr: {low: 1}}}": "'tune.space.train.lr': give either 'choices' or both 'low' and "
    "'high'; found {'low': 1}",
    "tune: {space: {train.lr: {low: 1, high: 2, choices: [1]}}}": "'tune.space.train.lr': give either 'choices' "
    "or both 'low' and 'high'; found {'low': 1, 'high': 2, 'choices': [1]}",
    "tune: {space: {train.lr: {low: 2, high: 2}}}": "'tune.space.train.lr': 'low' (2) must be below 'high' (2); "
    "found {'low': 2, 'high': 2}",
    "tune: {space: {train.lr: {low: 0, high: 2, log: true}}}": "'tune.space.train.lr': 'low' (0) must be above 0 "
    "where 'log' is true; found {'low': 0, 'high': 2, 'log': True}",
    "tune: {space: {train.lrr: {low: 0.1, high: 1}}}": "tune.space: unknown key 'train.lrr'; did you mean 'lr'? "
    f"(allowed: {keys(Train)})",
    "tune: {space: {train.lr: {low: 0.1, high: 11}}}": "tune.space: 'train.lr' must be at least 0 and at most 10; "
    "found 11",
    "tune: {space: {train.lr.x: {low: 0.1, high: 1}}}": "tune.space: unknown key 'train.lr.x': 'train.lr' holds "
    "a value and no keys",
    "tune: {space: {model.family: {choices: [cnn, svm]}}}": f"tune.space: 'model.family' must be {FAMILIES}; "
    "found 'svm'",
    "tune: {space: {prepare.val: {low: 0.1, high: 0.2}}}": "tune.space: 'prepare.val' cannot be tuned; "
    "expected model.<name>, train.<name>",
    "tune: {space: {train: {low: 0.1, high: 0.2}}}": "tune.space: 'train' cannot be tuned; "
    "expected model.<name>, train.<name>",
    "tune: {space: {1: {low: 1, high: 2}}}": "'tune.space.1' must be a valid string; found 1",
    "tune: {space: {train.lr: {choices: [1], points: 3}}}":
    "'tune.space.train.lr': 'points' is of a range, not of 'choices'; found {'choices': [1], 'points': 3}",
    "tune: {space: {model.width: {low: 1, high: 8, step: 2}}}":
    "'tune.space.model.width': 'high' (8) must be a whole number of steps (2) above 'low' (1); found {'low': 1, "
    "'high': 8, 'step': 2}",
    "tune: {space: {train.lr: {low: 0.1, high: 1, step: 0.1, log: true}}}":
    "'tune.space.train.lr': 'step' cannot go together with 'log'; found {'low': 0.1, 'high': 1, 'step': 0.1, "
    "'log': True}",
    "tune: {space: {train.lr: {low: 0.1, high: 1, points: 1}}}":
    "'tune.space.train.lr.points' must be at least 2 and at most 1000; found 1",
    "tune: {space: {model.width: {low: 1, high: 8, step: 0}}}":
    "'tune.space.model.width': 'step' (0) must be above 0 and finite; found {'low': 1, 'high': 8, 'step': 0}",
    "tune: {space: {model.heads: {choices: [2], when: {model.family: []}}}}":
    "'tune.space.model.heads': 'when' gives no value of 'model.family'; found {'choices': [2], 'when': "
    "{'model.family': []}}",
    "tune: {space: {model.heads: {choices: [2], when: {model.family: [cnn]}}}}":
    "tune.space: 'model.heads' hangs on 'model.family', which is not tuned; name a key of tune.space",
    "tune: {space: {train.lr: {low: 0.1, high: 1, when: {model.depth: [1]}}, model.depth: {choices: [1]}}}":
    "tune.space: 'train.lr' hangs on 'model.depth', which must come before it",
    "tune: {space: {model.depth: {low: 1, high: 3}, train.lr: {low: 0.1, high: 1, when: {model.depth: [2, 4]}}}}":
    "tune.space: 'train.lr' hangs on 'model.depth' being 4, which it never is",
    "tune: {objectives: [val_loss, val_loss], pruner: none, space: {train.lr: {low: 0.1, high: 1}}}":
    "'tune.objectives' names one twice",
    "tune: {objectives: [joules], space: {train.lr: {low: 0.1, high: 1}}}":
    "'tune.objectives' must hold val_loss: what is small or fast alone learns nothing",
    "tune: {objectives: [val_loss, parameters], pruner: none, space: {train.lr: {low: 0.1, high: 1}}}":
    "'tune.objectives' names parameters, and all trials have the same, as tune.space holds no key of 'model'",
    "tune: {objectives: [val_loss, joules], space: {train.lr: {low: 0.1, high: 1}}}":
    "'tune.pruner' is hyperband, and of several tune.objectives none says which trial is the worse; set it to "
    "none",
    "tune: {pruner: wilcoxon, space: {train.lr: {low: 0.1, high: 1}}}":
    "'tune.pruner' wilcoxon compares trials after 3 folds and so needs more; prepare.folds.number is 0; make it "
    "5, or take hyperband",
    "tune: {sampler: grid, space: {train.lr: {low: 0.1, high: 1}}}":
    "tune.space: 'train.lr' is a range, of which a grid needs 'points' or 'step'",
    "tune: {sampler: grid, space: {train.lr: {low: 0.1, high: 1, points: 13}}}":
    "'tune.trials' is 12 and the grid of tune.space has 13 combinations; give as many trials, or fewer 'choices' "
    "and 'points'",
    "tune: {sampler: grid, space: {train.lr: {low: 0.1, high: 1, points: 400}, train.ema: {low: 0, high: 0.9, "
    "points: 400}}}":
    "tune.space has more than 10000 combinations, too many for a grid; take random",
    "tune: {sampler: cma-es, space: {model.width: {choices: [8, 12]}}}":
    "'tune.sampler' cma-es moves ranges, and tune.space holds choices alone; take tpe",
    "tune: {sampler: cma-es, pruner: none, objectives: [val_loss, joules], space: {train.lr: {low: 0.1, high: 1}}}":
    "'tune.sampler' cma-es takes one objective; nsga-ii, tpe and gp take several",
    "tune: {sampler: gp, trials: 1001, space: {train.lr: {low: 0.1, high: 1}}}":
    "'tune.trials' is 1001: the time of a Gaussian process grows with the cube of them; at most 1000 with gp, or "
    "take tpe",
}  # fmt: skip
BROKEN = {  # a whole file: all of the message
    "": "params.yaml must hold keys such as 'name:' and 'train:'; found an empty file",
    "# nothing\n": "params.yaml must hold keys such as 'name:' and 'train:'; found an empty file",
    "- name\n": "params.yaml must hold keys such as 'name:' and 'train:'; found list",
    "name\n": "params.yaml must hold keys such as 'name:' and 'train:'; found str",
    "name: mnist\n\tseed: 7\n": "params.yaml, line 2, column 1: not valid YAML: found character '\\t' that cannot "
    "start any token; indent with spaces",
    "name: mnist\nseed: [7\n": "params.yaml, line 3, column 1: not valid YAML: expected ',' or ']', but got "
    "'<stream end>'",
    "name: mnist\nseed: *x\n": "params.yaml, line 2, column 7: not valid YAML: found undefined alias 'x'",
    "name: a\n---\nname: b\n": "params.yaml, line 2, column 1: not valid YAML: but found another document",
    "? [a]\n: 3\n": "params.yaml, line 1, column 3: not valid YAML: found unhashable key",
    "name: !!python/object/apply:os.getcwd []\n": "params.yaml, line 1, column 7: not valid YAML: could not "
    "determine a constructor for the tag 'tag:yaml.org,2002:python/object/apply:os.getcwd'",
}  # fmt: skip
