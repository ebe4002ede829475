# SPDX-License-Identifier: MIT
# bgsave.gp - draws what bgsave.sh collected. Variables: from (directory of the data), to (directory of the picture).
set datafile separator "\t"
set terminal svg size 760, 420 dynamic background rgb "white" font "sans-serif,12"
set output to."/bgsave.svg"
set title "Memory while a background save runs beside four writing clients"
set border 3 linecolor rgb "#606060"
set grid xtics ytics linecolor rgb "#d8d8d8"
set tics nomirror
set xlabel "seconds since BGSAVE"
set ylabel "MiB, server and its child"
set yrange [0:*]
set key bottom right
set style data linespoints
set style increment user
set style line 1 linewidth 2 pointtype 7 pointsize 0.4 linecolor rgb "#c04000"
set style line 2 linewidth 2 pointtype 7 pointsize 0.4 linecolor rgb "#0060a8"
plot from."/redis.memory" using 1:2 title "redis-server (fork)", \
     from."/ours.memory" using 1:2 title "kvserver (memsnap)"
