package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/minirun/minirun/internal/testenv"
)

func TestNetworkService_Flags(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"web"}, "flag --port is missing"},
		{[]string{"--port", "0", "web"}, "want 1 to 65535"},
		{[]string{"--port", "80/icmp", "web"}, "want tcp, udp or sctp"},
		{[]string{"--port", "x:80", "web"}, `port "x"`},
		{[]string{"--port", "80", "--address", "10.96.0.300", "web"}, "want an address"},
		{[]string{"--port", "80", "--address", "127.0.0.1", "web"}, "loopback address cannot be a service's"},
		{[]string{"--port", "80", "--endpoint", "10.0.0.1", "web"}, "want ADDRESS:PORT"},
		{[]string{"--port", "80", "--endpoint", "10.0.0.1:80,weight=x", "web"}, "want a number"},
		{[]string{"--port", "80", "--endpoint", "10.0.0.1:80,heavy", "web"}, `unknown option "heavy"`},
		{[]string{"--port", "80", "--affinity", "10ms", "web"}, "whole seconds"},
		{[]string{"--port", "80"}, "wrong number of arguments"},
	} {
		if got := fails(t, t.TempDir(), nil, append([]string{"network", "service", "add"}, tt.args...)...); !strings.Contains(got, tt.want) {
			t.Errorf("%q: %s, want %q", tt.args, got, tt.want)
		}
	}
	store := t.TempDir()
	if err := os.MkdirAll(store+"/services", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(store+"/services/services.json", []byte(`{"version":2}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := fails(t, store, nil, "network", "service", "rm", "web"); !strings.Contains(got, "has version 2, this minirun reads 1") {
		t.Error(got)
	}
}

// The commands as people type them, in a network namespace of their own.
func TestRootNetworkService(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.CheckLeaks(t)
	script := `set -e
m() { "$MINIRUND" --store "$STORE" network service "$@"; }
m add --address 10.96.0.10 --port 30080:80 --port 53/udp --endpoint 10.1.0.2:8080,weight=3 --endpoint 10.1.0.3:8080,draining web
m add --address 10.96.0.11 --port 80 --affinity 1h other
m list
nft list map inet minirun_svc slots4_1
nft flush ruleset
m reload
nft list map inet minirun_svc slots4_1
! m add --address 10.96.0.10 --port 80 third 2>&1
! m rm nobody 2>&1
m rm web other
nft list ruleset`
	cmd := exec.Command("unshare", "-n", "sh", "-c", script)
	cmd.Env = append(os.Environ(), "MINIRUND="+testenv.Supervisor(t), "STORE="+t.TempDir())
	b, err := cmd.CombinedOutput()
	out := string(b)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{
		"10.1.0.2:8080 (0), 10.1.0.3:8080 (0) draining",
		"10.96.0.10 . tcp . 80 : 10.1.0.2 . 8080",
		`service "third": 10.96.0.10:80/tcp belongs to service "web"`,
		"hint: give one of the two another address",
		`service "nobody" does not exist`,
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if n := strings.Count(out, "10.96.0.10 . tcp . 80 : 10.1.0.2 . 8080"); n != 2 {
		t.Errorf("the slot is listed %d times, want before the flush and after reload", n)
	}
	if strings.Count(out, "table inet minirun_svc") != 2 {
		t.Errorf("the table is still there after all services are gone:\n%s", out)
	}
}
