dnl SPDX-License-Identifier: MIT
dnl Where the project is reached. This is the one place for it: configure --help, memsnap.pc and the packages take it from here.
dnl
dnl There is no public address yet, and both are empty: configure then says to report bugs to the package provider, and the files
dnl leave the address out. Who publishes the project fills them in, and nothing else.
m4_define([MEMSNAP_BUG_ADDRESS], [])
m4_define([MEMSNAP_URL], [])
