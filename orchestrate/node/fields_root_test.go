package node

import "testing"

// A container knows the services of its namespace, unless its pod does not want
// that.
func TestRootPodServiceVariables(t *testing.T) {
	b := newBench(t)
	b.apply("services", "{apiVersion: v1, kind: Service, metadata: {name: my-db}, spec: {clusterIP: 10.96.0.7, ports: [{name: sql, port: 5432}]}}")
	b.apply("services", "{apiVersion: v1, kind: Service, metadata: {name: headless}, spec: {clusterIP: None, ports: [{port: 1}]}}")
	for name, want := range map[string]string{"links": "10.96.0.7 5432 tcp://10.96.0.7:5432 db at 10.96.0.7\n", "none": "$(MY_DB_SERVICE_HOST)\n"} {
		enable, script := "true", "echo $MY_DB_SERVICE_HOST $MY_DB_SERVICE_PORT_SQL $MY_DB_PORT_5432_TCP $AT"
		if name == "none" {
			enable, script = "false", "env | grep -e MY_DB_ -e HEADLESS | sed 's/.*at //'"
		}
		b.runPod(name, `
  enableServiceLinks: `+enable+`
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: "base:1", command: [sleep, "1000"], env: [{name: AT, value: "db at $(MY_DB_SERVICE_HOST)"}]}
`)
		b.until(name, "it is ready", ready)
		if code, out := b.exec(name, "c", "sh", "-c", script); code != 0 || out != want {
			t.Errorf("%s: %d %q, want %q", name, code, out, want)
		}
		if _, out := b.exec(name, "c", "sh", "-c", "env | grep -c -e HEADLESS -e KUBERNETES"); out != "0\n" {
			t.Errorf("%s: %q", name, out)
		}
	}
}
