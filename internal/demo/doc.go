// Package demo holds the small programs of the image minirun/demo.
//
// That image is made from minirun itself: one layer with the static binary as
// /minirun and a symbolic link /bin/NAME for every applet, so a host without
// any registry has something to run. minirun's main asks Main first, with the
// last element of argv[0]:
//
//	if code, ok := demo.Main(path.Base(os.Args[0]), os.Args[1:]); ok {
//		os.Exit(code)
//	}
//
// Every create, start and exec passes through that line. It is therefore one
// switch over a string, and the package has no package-level variables, no
// init function, and imports neither net, fmt nor encoding/json.
//
// The applets write with write(2) and return exit statuses: 0, 1 for a
// failure, 2 for wrong usage, as the programs they are named after.
package demo
