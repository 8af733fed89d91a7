"""Print multiply-accumulates and parameters of the paper's models beside its Tables 1 and 2, and of the released ones.

The paper's "FLOPs" are multiply-accumulates of one view, text features cached, prompt generator included.
"""

from transformers_ila.checkpoints import DATA_SETS, PUBLISHED
from transformers_ila.complexity import count


def main() -> None:
    heading = f"{'data set':24}{'model':14}{'frames':>6}{'GMACs':>10}{'paper':>8}{'ratio':>8}"
    print(heading + f"{'params (M)':>12}{'released':>10}")
    for checkpoint in PUBLISHED:
        paper, released = count(checkpoint.config(alignment_fusion="mi_token")), count(checkpoint.config())
        row = f"{DATA_SETS[checkpoint.data_set].title:24}ILA-{checkpoint.size:10}{checkpoint.num_frames:6}"
        ratio = paper.gmacs / checkpoint.gmacs
        row += f"{paper.gmacs:10.1f}{checkpoint.gmacs:8}{ratio:8.3f}{paper.parameters:12.1f}{released.gmacs:10.1f}"
        print(row, flush=True)
    print("The paper's last row (3723) cannot be reached by the module that gives the three rows above it.")
    print('released: GMACs of the network of the published checkpoints (`alignment_fusion="residual"`).')


if __name__ == "__main__":
    main()
