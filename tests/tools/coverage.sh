#!/bin/sh
# SPDX-License-Identifier: MIT
# Sums up what the tests just run have executed of lib/: lines and branches per file and in total,
# and every line not reached in coverage/not-reached.txt. doc/coverage.txt says why those are not.
set -u
: "${GCOV:=gcov}"

rm -rf coverage
mkdir coverage || exit 1
find lib -name '*.gcda' >coverage/data
test -s coverage/data || { echo "no counts here: configure with --enable-coverage"; exit 1; }

while read -r data; do
    $GCOV -b -o "$(dirname "$data")" "$data" 2>/dev/null
done <coverage/data >coverage/report.txt
mv ./*.gcov coverage/

# gcov names each file and then gives its percentages; headers come once for every file that
# includes them.
awk '
    /^File / { file = $2; gsub(/\047/, "", file); known = file !~ /^\/usr/ && file ~ /lib\/.*\.c$/; sub(/.*lib\//, "lib/", file) }
    known && /^Lines executed/ { split($0, part, /[:% ]+/); lines[file] = part[3]; count[file] = part[5] }
    known && /^Taken at least once/ { split($0, part, /[:% ]+/); branches[file] = part[5]; branch_count[file] = part[7] }
    END {
        format = "%-24s %6s %9s %9s %9s\n"
        printf format, "file", "lines", "executed", "branches", "taken"
        for (file in lines) {
            printf format, file, count[file], lines[file] "%", branch_count[file] + 0, branches[file] + 0 "%" | "sort"
            n += count[file]; hit += count[file] * lines[file] / 100
            b += branch_count[file]; taken += branch_count[file] * branches[file] / 100
        }
        close("sort")
        if (!n) exit 1
        printf format, "total", n, sprintf("%.2f%%", 100 * hit / n), b, b ? sprintf("%.2f%%", 100 * taken / b) : "-"
    }' coverage/report.txt | tee coverage/summary.txt
awk -F: '
    /Source:/ { file = $4; sub(/.*lib\//, "lib/", file) }
    $1 ~ /#####/ && file ~ /^lib\/.*\.c$/ { line = $2 + 0; text = $0; sub(/^[^:]*:[^:]*:/, "", text); print file ":" line ":" text }
' coverage/*.gcov >coverage/not-reached.txt
echo "$(wc -l <coverage/not-reached.txt) lines not reached: coverage/not-reached.txt"
