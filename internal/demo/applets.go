package demo

// Applets returns the names of all applets, sorted: what /bin of the demo image holds.
func Applets() []string {
	return []string{"burn", "cat", "eat", "echo", "env", "exit", "false", "forks", "hello", "httpd", "id", "ls", "sandbox", "sleep", "true"}
}

// Main runs the applet name with the arguments that follow its name and
// returns its exit status. ok is false, and nothing has happened, when there is
// no such applet.
func Main(name string, args []string) (code int, ok bool) {
	switch name {
	case "burn":
		return burn(args), true
	case "cat":
		return cat(args), true
	case "eat":
		return eat(args), true
	case "echo":
		return echo(args), true
	case "env":
		return env(args), true
	case "exit":
		return exit(args), true
	case "false":
		return 1, true
	case "forks":
		return forks(args), true
	case "hello":
		return hello(args), true
	case "httpd":
		return httpd(args), true
	case "id":
		return id(args), true
	case "ls":
		return ls(args), true
	case "sandbox":
		return sandbox(args), true
	case "sleep":
		return sleep(args), true
	case "true":
		return 0, true
	}
	return 0, false
}
