# shrinkflow: a reproducible benchmark of neural-network pruning.
#
# raw archive -> data set -> pretrained -> scores -> mask -> finetuned -> metrics -> tables -> figures, report
from snakemake.utils import min_version

min_version("9.27")

# A study named by --configfile replaces the default one; merged, the two would mix their cells.
if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


include: "workflow/rules/common.smk"
include: "workflow/rules/upstream.smk"


wildcard_constraints:
    dataset=names(pair.dataset for pair in STUDY.pairs),
    model=names(pair.model for pair in STUDY.pairs),
    weights=names(weights for pair in STUDY.pairs for weights in pair.weights),
    strategy=names(cell.strategy for cell in CELLS),
    ratio=names(study.ratio_text(cell.ratio) for cell in JOBS),
    seed=names(STUDY.seeds),
    figure=names(STUDY.figures()),


rule all:
    """Everything: tables, figures and report of the study"""
    default_target: True
    input:
        TABLES,
        FIGURES,
        REPORT,


include: "workflow/rules/data.smk"
include: "workflow/rules/pretrain.smk"
include: "workflow/rules/prune.smk"
include: "workflow/rules/finetune.smk"
include: "workflow/rules/metrics.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/costs.smk"


onstart:
    refuse_without_gpu()
    print(estimate.announcement(STUDY), file=sys.stderr)
    session.end_jobs_too()


onsuccess:
    session.tidy(Path(RESUME))
    print(*session.closing(Path(RESULTS)), sep="\n")


onerror:
    if PROGRESS:
        measured = [path(f"{CELL}/metrics.json", cell) for cell in CELLS]
        named = workflow.configfiles if workflow.overwrite_configfiles else []
        going = workflow.execution_settings.keep_going
        lines = session.failing(PROGRESS, measured, named, keep_going=going)
        print(*lines, sep="\n", file=sys.stderr)
