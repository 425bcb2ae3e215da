//! Sites, clients, updates, collections.

use muster_proto::catalog::{get_update_request::Key, update_service_server::UpdateService, *};
use muster_proto::client::{client_service_server::ClientService, *};
use muster_proto::collection::{collection_service_server::CollectionService, *};
use muster_proto::link::{LinkHealth, LinkStatus};
use muster_proto::site::{site_service_server::SiteService, *};
use tonic::{Request, Response, Status};

use super::{Fake, ago, check, fixed, id, page};

type Answer<T> = Result<Response<T>, Status>;

fn site() -> Site {
    Site {
        site_code: "P01".to_owned(),
        name: "Head office".to_owned(),
        created_at: ago(7_200),
        clients: 202,
        own_clients: 2,
        own: true,
        parent_site_code: "CEN".to_owned(),
        updates: 28_934,
        catalog_generation: 7,
        version: "0.0.0".to_owned(),
        queued_messages: 1_200,
        quarantined: 3,
        certificate_ends_at: ago(-86_400 * 90 - 3_600),
        links: vec![LinkStatus {
            peer_site_code: "CEN".to_owned(),
            health: LinkHealth::Degraded.into(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn other(code: &str, name: &str, parent: &str) -> Site {
    Site {
        site_code: code.to_owned(),
        name: name.to_owned(),
        parent_site_code: parent.to_owned(),
        created_at: ago(7_200),
        status_at: ago(60),
        clients: 100,
        own_clients: 50,
        version: "0.0.0".to_owned(),
        ..Default::default()
    }
}

#[tonic::async_trait]
impl SiteService for Fake {
    async fn list_sites(&self, _: Request<ListSitesRequest>) -> Answer<ListSitesResponse> {
        Ok(Response::new(ListSitesResponse {
            sites: vec![
                site(),
                other("CEN", "Central", ""),
                other("S11", "Branch", "P01"),
                other("T01", "Shop", "S11"),
                other("S12", "Factory", "P01"),
            ],
        }))
    }

    async fn create_invitation(
        &self,
        request: Request<CreateInvitationRequest>,
    ) -> Answer<CreateInvitationResponse> {
        self.ask(request.get_ref());
        Ok(Response::new(CreateInvitationResponse {
            token: "muster-join-AUNFTg".to_owned(),
            expires_at: fixed(1_900_000_000),
        }))
    }

    async fn join_parent(&self, request: Request<JoinParentRequest>) -> Answer<JoinParentResponse> {
        self.ask(request.get_ref());
        Ok(Response::new(JoinParentResponse {
            parent: Some(other("CEN", "Central", "")),
        }))
    }

    async fn leave_parent(
        &self,
        request: Request<LeaveParentRequest>,
    ) -> Answer<LeaveParentResponse> {
        self.ask(request.get_ref());
        Ok(Response::new(LeaveParentResponse {}))
    }

    async fn remove_child(
        &self,
        request: Request<RemoveChildRequest>,
    ) -> Answer<RemoveChildResponse> {
        self.ask(request.get_ref());
        check("site", &request.into_inner().site_code).await?;
        Ok(Response::new(RemoveChildResponse {}))
    }

    async fn list_links(&self, _: Request<ListLinksRequest>) -> Answer<ListLinksResponse> {
        let direction = |items_behind, rate, left: Option<i64>| {
            let seconds = |seconds| prost_types::Duration { seconds, nanos: 0 };
            Some(LinkDirection {
                epoch: 1,
                applied_seq: 40,
                numbered_seq: 42,
                items_behind,
                lag: Some(seconds(i64::from(items_behind > 0) * 75)),
                rate,
                time_left: left.map(seconds),
            })
        };
        let parent = SiteLink {
            peer_site_code: "CEN".to_owned(),
            peer_name: "Central".to_owned(),
            parent: true,
            health: LinkHealth::Degraded.into(),
            since: ago(600),
            heard_at: ago(130),
            missed_cycles: 2,
            problem: "connection refused".to_owned(),
            sending: direction(12_000, 400.0, Some(30)),
            receiving: direction(0, 0.0, None),
            peer_protocol: 1,
            peer_version: "0.0.0".to_owned(),
            ..Default::default()
        };
        let child = SiteLink {
            peer_site_code: "S11".to_owned(),
            peer_name: "Branch".to_owned(),
            health: LinkHealth::Refused.into(),
            since: ago(60),
            sending: direction(3, 0.0, None),
            receiving: direction(0, 0.0, None),
            refusal: "DUPLICATE_SITE_CODE: T01 is known in another way".to_owned(),
            ..Default::default()
        };
        Ok(Response::new(ListLinksResponse {
            links: vec![parent, child],
        }))
    }

    async fn get_site(&self, request: Request<GetSiteRequest>) -> Answer<GetSiteResponse> {
        check("site", &request.into_inner().site_code).await?;
        let role = |role: &str, reachable, detail: &str| SiteRole {
            role: role.to_owned(),
            address: "https://127.0.0.1:8444".to_owned(),
            reachable,
            detail: detail.to_owned(),
        };
        let roles = vec![
            role("software-update-point", true, "generation 7"),
            role("distribution-point", false, "connection refused"),
        ];
        Ok(Response::new(GetSiteResponse {
            site: Some(site()),
            roles,
        }))
    }
}

pub(super) fn client(no: u8, host_name: &str) -> Client {
    Client {
        client_id: id(no),
        host_name: host_name.to_owned(),
        site_code: "P01".to_owned(),
        os_id: "debian".to_owned(),
        os_version_id: "12".to_owned(),
        architecture: "amd64".to_owned(),
        last_report_at: ago(180),
        enrolled_at: ago(86_400 * 30),
        catalog_generation: 7,
        installed: 412,
        required: 12,
        scan_state: 3,
        free_disk_bytes: 42_000_000_000,
        ..Default::default()
    }
}

#[tonic::async_trait]
impl ClientService for Fake {
    async fn list_clients(
        &self,
        request: Request<ListClientsRequest>,
    ) -> Answer<ListClientsResponse> {
        let request = request.into_inner();
        self.ask(&request);
        let restart = Client {
            restart_pending: true,
            ..client(0x22, "web-02")
        };
        // Host names come from machines, and machines can be hostile.
        let hostile = Client {
            last_report_at: None,
            scan_state: 99,
            ..client(0x33, "\x1b[2Jx")
        };
        let all = [client(0x11, "web-01"), restart, hostile];
        let (clients, next_page_token) = page(&all, request.page_size, &request.page_token);
        Ok(Response::new(ListClientsResponse {
            clients,
            next_page_token,
            total: 3,
        }))
    }

    async fn get_client(&self, request: Request<GetClientRequest>) -> Answer<GetClientResponse> {
        let name = request.into_inner().name;
        check("client", &name).await?;
        let collections = vec!["All systems".to_owned(), "Pilot".to_owned()];
        Ok(Response::new(GetClientResponse {
            client: Some(client(0x11, &name)),
            collections,
            stream: Some(Stream {
                contiguous_serial: 471,
                highest_serial: 480,
                gap_since: ago(420),
                asks: 1,
                ask_at: ago(-9_000),
                ..Default::default()
            }),
            clone_ids: vec![id(0x12)],
            ..Default::default()
        }))
    }

    async fn delete_client(
        &self,
        request: Request<DeleteClientRequest>,
    ) -> Answer<DeleteClientResponse> {
        self.ask(&request.into_inner());
        Ok(Response::new(DeleteClientResponse {}))
    }

    async fn resync_clients(
        &self,
        request: Request<ResyncClientsRequest>,
    ) -> Answer<ResyncClientsResponse> {
        let request = request.into_inner();
        check("client", &request.name).await?;
        self.ask(&request);
        let clients = if request.all { 3 } else { 1 };
        Ok(Response::new(ResyncClientsResponse { clients }))
    }

    async fn move_client(&self, request: Request<MoveClientRequest>) -> Answer<MoveClientResponse> {
        let request = request.into_inner();
        check("client", &request.name).await?;
        self.ask(&request);
        Ok(Response::new(MoveClientResponse {
            r#move: Some(ClientMove {
                move_no: 7,
                client_id: vec![0x11; 16].into(),
                to_site_code: request.to_site_code,
                ..Default::default()
            }),
        }))
    }

    async fn create_enrolment_tokens(
        &self,
        request: Request<CreateEnrolmentTokensRequest>,
    ) -> Answer<CreateEnrolmentTokensResponse> {
        let request = request.into_inner();
        self.ask(&request);
        let tokens = (1..=request.count)
            .map(|no| format!("token-{no}"))
            .collect();
        let expires_at = fixed(4_000_000_000);
        Ok(Response::new(CreateEnrolmentTokensResponse {
            tokens,
            expires_at,
        }))
    }
}

pub(super) fn update(update_no: u32) -> Update {
    Update {
        update_no,
        update_id: format!("apt/debian/bookworm-security/openssl/{update_no}"),
        title: "openssl security update".to_owned(),
        classification: Classification::Security.into(),
        severity: Severity::Important.into(),
        product: "Debian 12".to_owned(),
        suite: "bookworm-security".to_owned(),
        source_package: "openssl".to_owned(),
        source_version: "3.0.11-1~deb12u2".to_owned(),
        cve_ids: vec!["CVE-2023-5363".to_owned()],
        released_at: fixed(1_000_000_000),
        supersedes: vec![3, 4],
        revision: 1,
        max_run_time_minutes: 10,
        ..Default::default()
    }
}

pub(super) fn summary(update_no: u32) -> UpdateSummary {
    let update = Some(update(update_no));
    UpdateSummary {
        update,
        installed: 100,
        required: 57,
        not_required: 40,
        unknown: 5,
    }
}

fn list(name: &str) -> UpdateList {
    UpdateList {
        update_list_id: id(0x44),
        name: name.to_owned(),
        description: "what june needs".to_owned(),
        created_at: ago(300),
        update_count: 12,
        owner_site_code: "P01".to_owned(),
    }
}

#[tonic::async_trait]
impl UpdateService for Fake {
    async fn list_updates(
        &self,
        request: Request<ListUpdatesRequest>,
    ) -> Answer<ListUpdatesResponse> {
        let request = request.into_inner();
        self.ask(&request);
        let all: Vec<_> = (1..=1_234).map(summary).collect();
        let (updates, next_page_token) = page(&all, request.page_size, &request.page_token);
        Ok(Response::new(ListUpdatesResponse {
            updates,
            next_page_token,
            total: 1_234,
        }))
    }

    async fn get_update(&self, request: Request<GetUpdateRequest>) -> Answer<GetUpdateResponse> {
        let key = request.into_inner().key;
        self.ask(&key);
        if let Some(Key::UpdateId(name)) = &key {
            check("update", name).await?;
        }
        let mut found = summary(4_711);
        found.update.as_mut().unwrap().leaves = vec![Leaf {
            package: "libssl3".to_owned(),
            version: "3.0.11-1~deb12u2".to_owned(),
            architecture: "amd64".to_owned(),
            file: Some(FileRef {
                sha256: vec![0xab; 32].into(),
                size: 2_019_000,
                path: "pool/main/o/openssl/libssl3.deb".to_owned(),
                ..Default::default()
            }),
            phased_percentage: 100,
        }];
        Ok(Response::new(GetUpdateResponse {
            update: Some(found),
        }))
    }

    async fn create_update_list(
        &self,
        request: Request<CreateUpdateListRequest>,
    ) -> Answer<CreateUpdateListResponse> {
        let request = request.into_inner();
        check("update list", &request.name).await?;
        self.ask(&request);
        let warnings = vec!["more than 500 updates in one list".to_owned()];
        let update_list = Some(list(&request.name));
        Ok(Response::new(CreateUpdateListResponse {
            update_list,
            warnings,
        }))
    }

    async fn list_update_lists(
        &self,
        _: Request<ListUpdateListsRequest>,
    ) -> Answer<ListUpdateListsResponse> {
        let of_the_parent = UpdateList {
            owner_site_code: "CEN".to_owned(),
            ..list("june")
        };
        let update_lists = vec![list("june"), of_the_parent];
        Ok(Response::new(ListUpdateListsResponse {
            update_lists,
            ..Default::default()
        }))
    }

    async fn get_update_list(
        &self,
        request: Request<GetUpdateListRequest>,
    ) -> Answer<GetUpdateListResponse> {
        let name = request.into_inner().name;
        check("update list", &name).await?;
        let update_list = Some(list(&name));
        Ok(Response::new(GetUpdateListResponse {
            update_list,
            updates: vec![summary(4_711)],
        }))
    }

    async fn delete_update_list(
        &self,
        request: Request<DeleteUpdateListRequest>,
    ) -> Answer<DeleteUpdateListResponse> {
        check("update list", &request.into_inner().name).await?;
        Ok(Response::new(DeleteUpdateListResponse {}))
    }
}

fn collection(name: &str) -> Collection {
    Collection {
        collection_id: id(0x55),
        name: name.to_owned(),
        description: "first to get updates".to_owned(),
        created_at: ago(86_400 * 3),
        member_count: 2,
        built_in: false,
        owner_site_code: "P01".to_owned(),
    }
}

#[tonic::async_trait]
impl CollectionService for Fake {
    async fn create_collection(
        &self,
        request: Request<CreateCollectionRequest>,
    ) -> Answer<CreateCollectionResponse> {
        let request = request.into_inner();
        check("collection", &request.name).await?;
        self.ask(&request);
        let collection = Some(collection(&request.name));
        Ok(Response::new(CreateCollectionResponse { collection }))
    }

    async fn list_collections(
        &self,
        _: Request<ListCollectionsRequest>,
    ) -> Answer<ListCollectionsResponse> {
        let all = Collection {
            built_in: true,
            member_count: 202,
            owner_site_code: String::new(),
            ..collection("All systems")
        };
        let collections = vec![all, collection("Pilot")];
        Ok(Response::new(ListCollectionsResponse {
            collections,
            ..Default::default()
        }))
    }

    async fn get_collection(
        &self,
        request: Request<GetCollectionRequest>,
    ) -> Answer<GetCollectionResponse> {
        let name = request.into_inner().name;
        check("collection", &name).await?;
        Ok(Response::new(GetCollectionResponse {
            collection: Some(collection(&name)),
        }))
    }

    async fn delete_collection(
        &self,
        request: Request<DeleteCollectionRequest>,
    ) -> Answer<DeleteCollectionResponse> {
        check("collection", &request.into_inner().name).await?;
        Ok(Response::new(DeleteCollectionResponse {}))
    }

    async fn change_members(
        &self,
        request: Request<ChangeMembersRequest>,
    ) -> Answer<ChangeMembersResponse> {
        let request = request.into_inner();
        self.ask(&request);
        let collection = Some(collection(&request.name));
        Ok(Response::new(ChangeMembersResponse { collection }))
    }
}
