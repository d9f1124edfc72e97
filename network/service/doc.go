// Package service is the load balancer: connections to the address of a service
// go to one of its endpoints, done by the kernel with nftables and without any
// process on the way. The client's address stays what it is.
//
// # Slots
//
// There are no rules for services. A service is elements of maps:
//
//	dnat to ip daddr . meta l4proto . th dport . numgen random mod 12 map @slots4_12
//
// Each service owns as many slots of one of five such maps as its endpoints need
// for even shares ([sizes]); each slot holds one endpoint. An endpoint comes or
// goes by replacing some elements in one transaction of the kernel, which takes as
// long with five services as with five thousand. Chains for each service would be
// checked by the kernel as a whole at every change.
//
// # The table
//
// Table minirun_svc of family inet, made by [newSchema]:
//
//	prerouting, output   nat     -105  choose an endpoint: chains services, nodeports, sticky...
//	refuse-...           filter  -90   what is still for a service has no endpoint: reset or unreachable
//	postrouting          nat     95    masquerade of endpoints that reach themselves
//
// Only first packets of connections see the nat chains; conntrack does the rest.
// Others must not change the table, and need not: chains of their own at other
// priorities see the same packets. What changes it nevertheless is undone by
// [Balancer.Watch], or by a watcher that has [Balancer.Watched].
//
// # Affinity
//
// A map "client . frontend : number of an endpoint", filled by the kernel as clients
// come, with a timeout that each new connection prolongs. The number leads to an
// endpoint only by way of the map of live ones, which changes in the same
// transaction as the slots. So nothing has to be cleaned up before an endpoint may
// go away; that is done afterwards.
//
// # What is not here
//
// Addresses, routes and forwarding are the network's business. Endpoints must send
// their answers back through this host: an endpoint in the same bridged network as
// its client would answer directly, to a client that waits for the service's
// address. See docs/network-services.md.
package service
