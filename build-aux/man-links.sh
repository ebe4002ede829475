#!/bin/sh
# SPDX-License-Identifier: MIT
# install|uninstall MAN3DIR SRCDIR PAGE...: a link page for every name that a section 3 page describes beside its own, so that
# man(1) finds all of them whatever system it runs on.
set -eu

action=$1 man3dir=$2 srcdir=$3
shift 3

for page; do
    case $page in *.3) ;; *) continue ;; esac
    test -f "$page" || page=$srcdir/$page
    own=$(basename "$page")
    for name in $(sed -n '/^\.Sh NAME/,/^\.Nd/s/^\.Nm \([a-z_0-9]*\)\( ,\)*$/\1/p' "$page"); do
        link=$man3dir/$name.3
        test "$name.3" = "$own" && continue
        test -f "$srcdir/doc/$name.3" && continue
        if test "$action" = install; then
            echo ".so man3/$own" >"$link"
        else
            rm -f "$link"
        fi
    done
done
