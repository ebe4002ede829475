# SPDX-License-Identifier: MIT
# plots.gp - draws what run.sh collected. Variables: from (directory of the data), to (directory of the pictures).
ours = "#0060a8"
theirs = "#c04000"
third = "#808080"

set datafile separator "\t"
set border 3 linecolor rgb "#606060"
set grid linecolor rgb "#d8d8d8"
set tics nomirror

# ---- how many times faster, and what was aimed at ----
stats from."/ratios" using 2 nooutput
rows = STATS_records
set terminal svg size 1400, 110 + 20 * rows dynamic background rgb "white" font "sans-serif,12" noenhanced
set output to."/ratios.svg"
set title "Peer's time or memory, over the library's"
set logscale x
set format x "%g"
set xrange [0.2:*]
set yrange [rows - 0.4:-0.6]
set style fill solid 0.8 noborder
set key below
plot from."/ratios" using (1):0:(1 < $2 ? 1 : $2):(1 < $2 ? $2 : 1):($0 - 0.3):($0 + 0.3):ytic(1) \
         with boxxyerror linecolor rgb ours title "measured", \
     "" using 3:0 with points pointtype 2 linewidth 2 linecolor rgb theirs title "aimed at"
unset output

# ---- over the number of changed pages ----
reset
set datafile separator "\t"
set border 3 linecolor rgb "#606060"
set grid linecolor rgb "#d8d8d8"
set tics nomirror
set terminal svg size 760, 480 dynamic background rgb "white" font "sans-serif,12" noenhanced
set logscale xy
set format "%g"
set xlabel "changed pages of a 64 MiB view"
set ylabel "microseconds"
set key bottom right

set output to."/restore.svg"
set title "Change pages, read 64 others, restore: the same pages each time"
plot from."/restore" using 1:3 with linespoints linewidth 2 linecolor rgb theirs pointtype 5 title "mapping again", \
     "" using 1:4 with linespoints linewidth 2 linecolor rgb third pointtype 9 title "MADV_DONTNEED", \
     "" using 1:2 with linespoints linewidth 2 linecolor rgb ours pointtype 7 title "memsnap_view_restore"

set output to."/take.svg"
set title "Take a snapshot of a changed view"
plot from."/take" using 1:3 with linespoints linewidth 2 linecolor rgb theirs pointtype 5 title "full copy", \
     "" using 1:2 with linespoints linewidth 2 linecolor rgb ours pointtype 7 title "memsnap_view_take_snapshot"
unset output
