"""Examples for docs/reference/configuration.md: a configuration for each block of keys. A test loads each one."""

from __future__ import annotations

EXAMPLES: dict[str, str] = {
    "File": """\
targets:
  allow: ["*.example.org", 192.0.2.0/24]
modules:
  http_2xx: {prober: http}
discovery:
  mail: {mx: example.org, module: http_2xx}
""",
    "Module": """\
modules:
  zone:
    description: A name server has the zone
    prober: dns
    timeout: 2.5s
    params:
      zone: {pattern: "[a-z0-9.-]+"}
    drop: [probe_ip_addr_hash, "probe_dns_additional_rrs"]
    resolver: {servers: [192.0.2.53]}
    source_ip_address: 192.0.2.9
    targets: {allow: [192.0.2.0/24]}
    dns: {query_name: "${param:zone}", query_type: SOA}
  up:
    prober: tcp
    keep: [probe_success, probe_failure_info]
""",
    "DnsSettings": """\
modules:
  shop_mx:
    prober: dns
    dns:
      query_name: example.org
      query_type: MX
      valid_rcodes: [NOERROR]
      validate_answer_rrs:
        fail_if_not_matches_regexp: ['\\tIN\\tMX\\t10 mx\\d\\.example\\.org\\.']
""",
    "ExporterSettings": """\
modules:
  node:
    prober: exporter
    exporter:
      formats: [openmetrics, text]
      fallback_format: text
      headers: {X-Scope-OrgID: probes}
      http_headers:
        X-Api-Key: {secrets: [not-a-real-key]}
      body_size_limit: 10MB
      health_paths: [/-/healthy, /health]
      lint_ignore: [help_missing]
      require: {health: true}
      reexpose: {names: [node_load1]}
      metrics:
        - name: node_boots
          help: Time of the last boot.
          from: {regexp: 'node_boot_time_seconds (\\S+)'}
      proxy_url: http://proxy.example.org:3128
      proxy_connect_header: {X-Team: [probes]}
""",
    "GrpcSettings": """\
modules:
  orders:
    prober: grpc
    grpc:
      tls: true
      service: shop.v1.Orders
      metadata: {x-tenant: [blue, green]}
""",
    "HttpSettings": """\
modules:
  shop:
    prober: http
    timeout: 5s
    http:
      method: POST
      body: '{"query": "tea"}'
      headers: {Content-Type: application/json}
      http_headers:
        X-Api-Key: {files: [/etc/probe-exporter/key]}
      valid_status_codes: [200, 201]
      valid_http_versions: [HTTP/1.1, HTTP/2.0]
      fail_if_body_matches_regexp: ["(?i)exception"]
      fail_if_body_not_matches_regexp: ['"results":', '"total": *[1-9]']
      fail_if_body_json_not_matches_cel: body.total > 0
      fail_if_header_not_matches:
        - {header: Cache-Control, regexp: no-store}
      fail_if_header_matches:
        - {header: Server, regexp: ".", allow_missing: true}
      body_size_limit: 512KB
      metrics:
        - name: shop_results
          help: Number of results.
          from: {json: $.total}
  behind_proxy:
    prober: http
    http:
      proxy_url: http://proxy.example.org:3128
      no_proxy: example.org,192.0.2.0/24
      proxy_connect_header: {X-Team: [probes]}
""",
    "IcmpSettings": """\
modules:
  loss:
    prober: icmp
    timeout: 5s
    icmp: {count: 10, interval: 100ms, payload_size: 1400, dont_fragment: true}
""",
    "LdapSettings": """\
modules:
  people:
    prober: ldap
    ldap:
      starttls: true
      bind_dn: cn=probe,dc=example,dc=org
      password: not-a-real-password
      base: ou=people,dc=example,dc=org
      scope: sub
      filter: (&(objectClass=person)(uid=probe))
""",
    "MemcachedSettings": "modules:\n  cache: {prober: memcached, memcached: {stats: false}}\n",
    "MqttSettings": """\
modules:
  broker:
    prober: mqtt
    mqtt: {tls: true, version: "5.0", username: probe, password: not-a-real-password, topic: probes/1, qos: 1}
""",
    "MysqlSettings": """\
modules:
  replica:
    prober: mysql
    mysql: {tls: true, user: probe, password: not-a-real-password, role: replica, max_lag: 30s}
""",
    "NtpSettings": """\
modules:
  clock:
    prober: ntp
    ntp: {samples: 4, interval: 20ms, max_offset: 100ms, max_root_distance: 1s}
""",
    "PostgresSettings": """\
modules:
  standby:
    prober: postgres
    postgres: {tls: true, user: probe, password: not-a-real-password, role: standby, max_lag: 1m30s}
""",
    "RedisSettings": """\
modules:
  replica:
    prober: redis
    redis: {role: slave, max_lag: 10s}
""",
    "SshSettings": """\
modules:
  bastion:
    prober: ssh
    ssh:
      host_keys: [SHA256:dGhpcyBpcyBhbiBleGFtcGxlIG9mIGEgZmluZ2VycHI]
      host_key_algorithms: [ssh-ed25519]
      key_exchanges: [curve25519-sha256]
""",
    "TcpSettings": """\
modules:
  ftp:
    prober: tcp
    tcp:
      query_response:
        - expect: ^220
        - send: "QUIT\\r"
""",
    "UdpSettings": """\
modules:
  status:
    prober: udp
    udp:
      query_response:
        - send: status
        - expect: ^ok
""",
    "UnixSettings": """\
modules:
  haproxy:
    prober: unix
    unix:
      query_response:
        - send: show info
        - expect: "^Name: HAProxy"
""",
    "WebsocketSettings": """\
modules:
  chat:
    prober: websocket
    websocket:
      headers: {Origin: "https://chat.example.org"}
      http_config: {tls_config: {server_name: chat.example.org}}
      query_response:
        - send: ping
        - expect: pong
""",
    "AddressesSettings": """\
modules:
  every_node:
    prober: tcp
    addresses: {policy: quorum, max: 8, one_after_another: true}
""",
    "AttemptsSettings": """\
modules:
  patient:
    prober: tcp
    attempts: {max: 3, delay: 200ms, only: [connect_timeout, connect_refused]}
""",
    "CertificateFileSettings": """\
modules:
  certificate_files:
    prober: certificate_file
    certificate_file:
      directories: [/etc/ssl/sites]
      password_file: /etc/probe-exporter/pkcs12-password
""",
    "Authorization": """\
modules:
  api:
    prober: http
    http:
      authorization: {type: Bearer, credentials_file: /etc/probe-exporter/token}
""",
    "BasicAuth": """\
modules:
  api:
    prober: http
    http:
      basic_auth: {username: probe, password_file: /etc/probe-exporter/password}
""",
    "DiscoverySettings": """\
modules:
  http_2xx: {prober: http}
discovery:
  frontends:
    addresses: www.example.org
    module: http_2xx
    port: 8443
    scheme: https
    path: /health
    hostname: true
    labels: {team: shop}
""",
    "HeaderMatcher": """\
modules:
  no_cookies:
    prober: http
    http:
      fail_if_header_matches:
        - {header: Set-Cookie, regexp: ".", allow_missing: true}
""",
    "HttpClientSettings": """\
modules:
  chat:
    prober: websocket
    websocket:
      http_config:
        proxy_url: http://proxy.example.org:3128
        proxy_connect_header: {X-Team: [probes]}
        http_headers: {Cookie: {secrets: [session=not-a-real-one]}}
""",
    "HttpHeader": """\
modules:
  api:
    prober: http
    http:
      http_headers:
        X-Team: {values: [probes]}
        X-Api-Key: {secrets: [not-a-real-key]}
        X-Token: {files: [/etc/probe-exporter/token]}
""",
    "Label": """\
modules:
  banner:
    prober: tcp
    tcp:
      query_response:
        - expect: '^SSH-2\\.0-(\\S+)'
          labels:
            - {name: software, value: "${1}"}
""",
    "OAuth2": """\
modules:
  api:
    prober: http
    http:
      oauth2:
        client_id: probe
        client_secret_file: /etc/probe-exporter/secret
        token_url: https://login.example.org/token
        scopes: [read]
        endpoint_params: {audience: shop}
        proxy_url: http://proxy.example.org:3128
        proxy_connect_header: {X-Team: [probes]}
  api_with_jwt:
    prober: http
    http:
      oauth2:
        client_id: probe
        grant_type: urn:ietf:params:oauth:grant-type:jwt-bearer
        client_certificate_key_file: /etc/probe-exporter/oauth.key
        token_url: https://login.example.org/token
        claims: {sub: probe@example.org}
""",
    "Parameter": """\
modules:
  zone:
    prober: dns
    params:
      zone: {pattern: "[a-z0-9.-]+", max_length: 253}
      type: {pattern: SOA|NS, default: SOA}
    dns: {query_name: "${param:zone}", query_type: "${param:type}"}
""",
    "RRValidator": """\
modules:
  shop_address:
    prober: dns
    dns:
      query_name: shop.example.org
      query_type: A
      validate_answer_rrs:
        fail_if_matches_regexp: ['\\t127\\.']              # fail if one record matches one of them
        fail_if_all_match_regexp: ['\\tCNAME\\t']          # fail if each record matches one of them
        fail_if_not_matches_regexp: ['192\\.0\\.2\\.\\d+$']  # fail if a record matches none of them
        fail_if_none_matches_regexp: ['192\\.0\\.2\\.7$']   # fail if no record matches any of them
""",
    "ReexposeSettings": """\
modules:
  node:
    prober: exporter
    exporter:
      reexpose: {names: [node_load?, node_boot_time_seconds], prefix: target_, limit: 10}
""",
    "RequireSettings": "modules:\n  node: {prober: exporter, exporter: {require: {health: true, lint: true}}}\n",
    "ResolverSettings": """\
modules:
  internal:
    prober: tcp
    resolver: {servers: [192.0.2.53, "[2001:db8::53]:5353"], timeout: 2s}
""",
    "SourceOfLabel": """\
modules:
  checks:
    prober: http
    http:
      metrics:
        - name: shop_check_ok
          help: 1 if the check passes, otherwise 0.
          from: {json: "$.checks[*]", value: $.state}
          values: {ok: 1, failed: 0}
          labels:
            check: {item: $.name}
            version: {json: $.version}
            server: {header: Server}
""",
    "SourceOfValues": """\
modules:
  queue:
    prober: http
    http:
      metrics:
        - name: shop_queue_length
          help: Orders that wait.
          from: {json: $.queue.length}
        - name: shop_uptime_seconds
          help: Uptime from a page of text.
          from: {regexp: 'uptime: (\\d+)'}
""",
    "Step": """\
modules:
  mail:
    prober: tcp
    tcp:
      query_response:
        - expect: '^220 (\\S+)'
          labels: [{name: mailserver, value: "${1}"}]
          send: "EHLO probe\\r"
        - expect: '^250[ -]STARTTLS'
          reject: ^5
        - send: "STARTTLS\\r"
        - expect: ^220
        - starttls: true
        - send_bytes: "QUIT\\r\\n"
        - expect_bytes: "221"
""",
    "TLSSettings": """\
modules:
  internal:
    prober: http
    http:
      tls_config:
        ca_file: /etc/ssl/internal-ca.pem
        cert_file: /etc/ssl/probe.pem
        key_file: /etc/ssl/probe.key
        server_name: shop.example.org
        min_version: TLS13
""",
    "TargetsSettings": """\
targets:
  allow: [10.0.0.0/8, "fd00::/8", "*.example.org:443", "unix:/run/haproxy/*"]
  deny: [10.0.0.53, "*.internal.example.org"]
modules:
  http_2xx: {prober: http}
""",
    "ValueSettings": """\
modules:
  checks:
    prober: http
    http:
      metrics:
        - name: shop_check_ok
          help: 1 if the check passes, otherwise 0.
          from: {json: "$.checks[*]", value: $.state}
          labels: {check: {item: $.name}, source: health}
          values: {ok: 1, warning: 0, failed: 0}
""",
}
"""By the name of the block's class; "File" is a whole file."""
