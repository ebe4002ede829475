# SPDX-License-Identifier: MIT
# soak.gp - draws what soak sampled. Variables: from (the table), to (the picture).
ours = "#0060a8"
theirs = "#c04000"
third = "#808080"

set datafile separator "\t"
set datafile commentschars "#"
set datafile missing "-"
set border 3 linecolor rgb "#606060"
set grid linecolor rgb "#d8d8d8"
set tics nomirror
set key at screen 0.99, graph 1 Left reverse
set lmargin 12
set rmargin 26
set xrange [0:*]
set yrange [0:*]
set style data lines

set terminal svg size 1000, 900 dynamic background rgb "white" font "sans-serif,12" noenhanced
set output to
set multiplot layout 3,1 title "tests/tools/soak"
minutes = 'column("seconds") / 60'

set ylabel "MiB"
plot from using (@minutes):"anon_mib" linewidth 2 linecolor rgb theirs title "anonymous, resident", \
     "" using (@minutes):"shmem_mib" linewidth 2 linecolor rgb ours title "shared, resident", \
     "" using (@minutes):"objects_mib" linewidth 2 linecolor rgb third title "in memfds and files"

set ylabel "how many"
plot from using (@minutes):"mappings" linewidth 2 linecolor rgb ours title "mappings", \
     "" using (@minutes):"descriptors" linewidth 2 linecolor rgb theirs title "descriptors"

set xlabel "minutes"
set ylabel "microseconds an operation"
set logscale y
set yrange [1:*]
set format y "%g"
kinds = "fork delta save export restore-to take take-atomic open restore"
shades = "#000000 #c04000 #0060a8 #808080 #d0a000 #008060 #7030a0 #40a0e0 #c06090"
plot for [i=1:words(kinds)] \
     from using (@minutes):word(kinds, i)."_us" linewidth 1.5 linecolor rgb word(shades, i) title word(kinds, i)
unset multiplot
unset output
